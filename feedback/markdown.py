"""Markdown of models and people as safe HTML: no raw HTML in, sanitised again after rendering, no images.

A model's answer is hostile text. Two walls, each enough alone: the parser never lets HTML through, and nh3
keeps only the elements listed here.
"""

from __future__ import annotations

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt

_BLOCKS = {
    "p",
    "br",
    "hr",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
}
TAGS = _BLOCKS | {"strong", "em", "s", "code", "a", "h1", "h2", "h3", "h4", "h5", "h6"}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
# Nesting beyond this is an attack on the parser, or on the reader.
MAX_NESTING = 20
# Longer texts are shown as they are: rendering must stay a matter of milliseconds.
MAX_CHARS = 200_000

_parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING}).enable(
    ["table", "strikethrough"]
)
_parser.disable("image")


def render_markdown(text: str) -> SafeString:
    """HTML that is safe to put into a page. Links open without telling where they were found."""
    if len(text) > MAX_CHARS:
        return render_plain(text)
    html = nh3.clean(
        _parser.render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return mark_safe(html)  # noqa: S308 - it is nh3's output


def render_plain(text: str) -> SafeString:
    """The text as one paragraph that keeps its line breaks."""
    return mark_safe(f"<pre>{nh3.clean_text(text)}</pre>")  # noqa: S308 - escaped by nh3
