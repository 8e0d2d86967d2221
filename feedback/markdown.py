"""Markdown of models and people as safe HTML: no raw HTML in, sanitised again after rendering, no images.

A model's answer is hostile text. Two walls, each enough alone: the parser never lets HTML through, and nh3
keeps only the elements, attributes and classes listed here. What is added after is ours alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language, gettext
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from feedback.code import CLASSES, LANGUAGES, highlight, language_of

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
TAGS = _BLOCKS | {"strong", "em", "s", "code", "span", "a", "h1", "h2", "h3", "h4", "h5", "h6"}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
ALLOWED_CLASSES = {"span": set(CLASSES), "code": {f"in-{name}" for name in LANGUAGES}}
# Nesting beyond this is an attack on the parser, or on the reader: such a text is shown as it is. The parser
# itself would leave out what lies deeper, and raters would judge an answer that they cannot see.
MAX_NESTING = 20
# Longer texts are shown as they are, and so are those with more signs that Markdown has to think about:
# 100,000 characters of prose take half a second, and as many stars and brackets three.
MAX_CHARS = 150_000
MAX_SIGNS = 15_000
MAX_COLOUR_SECONDS = 0.5
_SIGNS = re.compile(r"[*_\[\]`~|<!&]")
# Rendering is a pure function of the text. Kept for texts of a usual length: a page of 200 turns has as many.
CACHED, CACHED_CHARS = 1024, 10_000

_CODE = re.compile(r'<pre>(<code(?: class="in-([a-z]+)")?>.*?</code>)</pre>', re.DOTALL)
# They turn the reading direction round, so that code or a number reads as something else. Marked, not obeyed.
_OVERRIDES = re.compile("[\u202d\u202e]")

_parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING}).enable(
    ["table", "strikethrough"]
)
_parser.disable("image")


def _fence(self: RendererHTML, tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    """`env` is this text's own: it counts what was spent on colours, and beyond the limit there are none."""
    language, began = language_of(tokens[at].info), time.thread_time()
    named = f' class="in-{language}"' if language else ""
    is_spent = env.get("seconds", 0.0) > MAX_COLOUR_SECONDS
    html = escape(tokens[at].content) if is_spent else highlight(tokens[at].content, language)
    env["seconds"] = env.get("seconds", 0.0) + time.thread_time() - began
    return f"<pre><code{named}>{html}</code></pre>\n"


_parser.add_render_rule("fence", _fence)


def render_markdown(text: str) -> SafeString:
    """HTML that is safe to put into a page. Links open without telling where they were found."""
    if len(text) > MAX_CHARS or len(_SIGNS.findall(text)) > MAX_SIGNS:
        return render_plain(text)
    if len(text) > CACHED_CHARS:
        return _render(text)
    return _cached(text, get_language())


@lru_cache(maxsize=CACHED)
def _cached(text: str, language: str) -> SafeString:
    return _render(text)


def _render(text: str) -> SafeString:
    env: dict[str, Any] = {}
    tokens = _parser.parse(text, env)
    if any(token.level >= MAX_NESTING - 1 for token in tokens):
        return render_plain(text)
    html = nh3.clean(
        _parser.renderer.render(tokens, _parser.options, env),
        tags=TAGS,
        attributes=ATTRIBUTES,
        allowed_classes=ALLOWED_CLASSES,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
    )
    html = _OVERRIDES.sub(_marked, html)
    # Like code, a table that is wider than the page is scrolled by keys too.
    html = html.replace("<table>", '<div class="wide" tabindex="0"><table>').replace(
        "</table>", "</table></div>"
    )
    return mark_safe(_CODE.sub(_with_head, html))  # noqa: S308 - it is nh3's output, and our own around it


def render_plain(text: str) -> SafeString:
    """The text as one paragraph that keeps its line breaks."""
    text = _OVERRIDES.sub(_marked, text)
    return mark_safe(f"<pre>{nh3.clean_text(text)}</pre>")  # noqa: S308 - escaped by nh3


def _marked(found: re.Match[str]) -> str:
    """Its number, in text that people read; in an attribute it does nothing."""
    return f"U+{ord(found[0]):04X}"


def _with_head(found: re.Match[str]) -> str:
    """A block of code with its language and a button that copies it. In nh3's output `<` is a tag's alone.

    A line that is wider than the page is scrolled by keys too, so the block takes the focus.
    """
    name, copy, copied = LANGUAGES.get(found[2] or "", ""), gettext("Copy"), gettext("Copied")
    button = f"<span>{escape(copy)}</span><span>{escape(copied)}</span>"
    return (
        f'<div class="code"><div><span>{escape(name)}</span>'
        f'<button type="button" class="plain" data-copy-code>{button}</button></div>'
        f'<pre tabindex="0">{found[1]}</pre></div>'
    )
