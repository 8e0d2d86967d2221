"""Model output is hostile text: whatever it holds, the page gets harmless elements only."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.code import LANGUAGES, highlight
from feedback.markdown import ALLOWED_CLASSES, ATTRIBUTES, MAX_CHARS, MAX_SIGNS, TAGS, render_markdown

pytestmark = pytest.mark.unit

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![alt](https://example.org/track.png)",
    "![alt](javascript:alert(1))",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](vbscript:x)",
    "<javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<svg onload=alert(1)>",
    "<iframe src=//example.org></iframe>",
    "<style>body{display:none}</style>",
    "<form action=//example.org><input name=password></form>",
    "```<script>\nalert(1)\n</script>\n```",
    '```"onmouseover=alert(1)\nx\n```',
    '[x](https://example.org "a\\" onclick=alert(1)")',
    "a | b\n--|--\n<img src=x> | <b onclick=alert(1)>",
    "<math><mtext></mtext><mglyph><style><!--</style><img title='--><img src=1 onerror=alert(1)>'>",
    "\x00<scr\x00ipt>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
]


class Elements(HTMLParser):
    """Collects what a browser would see as elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


# What we put around a block of code ourselves, to the letter.
OURS = [
    ("div", {"class": "code"}),
    ("div", {}),
    ("pre", {"tabindex": "0"}),
    ("div", {"class": "wide", "tabindex": "0"}),
]
BUTTON = ("button", {"type": "button", "class": "plain", "data-copy-code": None})


def assert_harmless(html: str) -> None:
    for tag, attributes in Elements(html).seen:
        if (tag, attributes) in [*OURS, BUTTON]:
            continue
        assert tag in TAGS, html
        assert set(attributes) <= ATTRIBUTES.get(tag, set()) | {"rel", "class"}, html
        classes = (attributes.get("class") or "").split()
        assert set(classes) <= ALLOWED_CLASSES.get(tag, set()), html
        href = attributes.get("href") or ""
        if ":" in href.split("/")[0]:
            assert href.split(":")[0] in {"http", "https", "mailto"}, html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_harmless(text):
    assert_harmless(render_markdown(text))


@given(
    st.lists(
        st.sampled_from([*HOSTILE, "\n", "> ", "- ", "`", "[", "](", ")", "<", "*", "\\", "&"]), max_size=12
    )
)
@settings(max_examples=200, deadline=None)
def test_hostile_pieces_in_any_order_stay_harmless(pieces):
    assert_harmless(render_markdown("".join(pieces)))


def test_what_people_write_is_rendered():
    html = render_markdown(
        "**bold** and `code`\n\n1. one\n2. two\n\n[docs](https://example.org)\n\n|a|\n|-|\n|b|"
    )
    assert "<strong>bold</strong>" in html
    assert "<code>code</code>" in html
    assert "<ol>" in html
    assert "<table>" in html
    assert '<a href="https://example.org" rel="noopener noreferrer nofollow">docs</a>' in html


def test_html_in_an_answer_is_shown_as_it_was_written():
    assert render_markdown("use <b>bold</b>").strip() == "<p>use &lt;b&gt;bold&lt;/b&gt;</p>"


@pytest.mark.parametrize(
    "text",
    [
        "> " * 50_000,
        "[" * 100_000,
        "*a " * 40_000,
        "`" * 100_000,
        "- " * 50_000,
        "> - " * 25_000,
        "\n".join("  " * depth + "- x" for depth in range(300)),
        "a*_" * 33_000,
        ("|" + "a|" * 100 + "\n") + ("|" + "-|" * 100 + "\n") + ("|" + "b|" * 100 + "\n") * 400,
        "<http://a" * 12_000,
        "line\n" * 20_000,
        '```cs\n"\\"\\"\n```\n' * 6_000,
        "```cs\n" + '"\\' * 4_900 + "\n```\n",
    ],
)
def test_text_made_to_be_slow_is_not(text):
    started = time.thread_time()
    render_markdown(text)
    assert time.thread_time() - started < 5


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_code_made_to_be_slow_is_not(language):
    pieces = [
        "(",
        '"',
        "\\",
        "/*",
        "<",
        "${",
        "`",
        "[",
        "{",
        "<<A\n",
        'r#"',
        "@",
        "::",
        '"\\',
        "class A<",
        "a.b",
        " ",
    ]
    for piece in pieces:
        started = time.thread_time()  # its own, however busy the machine is
        highlight(piece * (9_000 // len(piece)), language)
        assert time.thread_time() - started < 2, piece


def test_code_is_coloured_by_kind_and_named():
    html = render_markdown('```py\ndef f(x):  # why\n    return "<b>"\n```')
    assert '<span class="k">def</span>' in html
    assert '<span class="c"># why</span>' in html
    assert "&lt;b&gt;" in html
    assert "<span>Python</span><button" in html
    assert '<code class="in-python">' in html
    plain = render_markdown("```no-such\n<script>\n```")
    assert "<code>&lt;script&gt;" in plain


def test_the_class_of_a_fence_is_nobodys_but_ours():
    assert "<span" not in render_markdown('<span class="button">x</span>')
    html = render_markdown('```py" class="primary\nx\n```')
    assert "primary" not in html


def test_an_override_of_the_reading_direction_is_marked_and_not_obeyed():
    assert render_markdown("pay \u202e100 to").strip() == "<p>pay U+202E100 to</p>"
    assert "\u202e" not in render_markdown("```py\nif a: # \u202e } \n```")


def test_links_lead_out_and_nowhere_within():
    assert "href" not in render_markdown("[x](/p/kitchen/) [y](//example.org) [z](#top)")


def test_too_many_signs_are_shown_as_they_are():
    assert render_markdown("*a" * (MAX_SIGNS + 1)).startswith("<pre>*a*a")


def test_a_text_without_end_is_shown_plain():
    html = render_markdown("<b>" * MAX_CHARS)
    assert html.startswith("<pre>&lt;b&gt;")


@pytest.mark.parametrize("sign", ["> ", "- ", "1. ", "> - "])
@pytest.mark.parametrize("times", [5, 9, 10, 19, 20, 40])
def test_what_lies_deep_is_not_left_out(sign: str, times: int) -> None:
    html = render_markdown(f"Before.\n\n{sign * times}deeply\n\nAfter.")
    for words in ("Before.", "deeply", "After."):
        assert words in html
