"""Answers that try to break a page: endless words, deep nesting, wide tables, another direction.

In every kind of work and in the chat they stay inside the screen, on a phone and at 200 % and 400 % zoom, and
axe finds nothing serious.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from feedback.models import Task
from tests.browser.cast import HOSTILE, talk
from tests.browser.test_every_page import serious
from tests.browser.test_work_page import ask
from tests.cast import Cast

WIDE = f"{HOSTILE}\n\n{'W' * 300}\n\n```\n{'z' * 400}\n```\n\n|{'column|' * 30}\n|{'---|' * 30}\n|{'x|' * 30}"
DEEP = f"{'> ' * 40}deep\n\n{'- ' * 40}nested\n\n{'word ' * 80}"
ARABIC = "بيضة مسلوقة: ضعها في ماء مغلي لمدة ثماني دقائق ثم بردها."
SIZES = [(640, 450), (390, 844), (320, 256)]  # 200 % zoom, a phone, 400 % zoom


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("compare", [WIDE, ARABIC]),
        ("compare", [WIDE, DEEP, ARABIC]),
        ("rate", [WIDE]),
        ("correct", [DEEP]),
        ("chat", [WIDE, ARABIC]),
    ],
)
def test_they_stay_inside_the_screen(
    page: Page, people: Cast, sign_in: Any, kind: str, answers: list[str]
) -> None:
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    sign_in(people.bob)
    if kind == "chat":
        conversation, _ = talk(people, "W" * 300, *answers)
        page.goto(f"/p/kitchen/chat/{conversation.pk}/")
        page.keyboard.press("+")
        expect(page.get_by_placeholder("Anything to add?")).to_be_visible()
    else:
        ask(people, Task.Kind(kind), answers)
        page.goto("/p/kitchen/work/")
    expect(page.locator(".prose").first).to_be_visible()
    assert serious(page) == []
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
    for place in page.locator(".prose").all():
        if ARABIC in place.inner_text():
            assert place.evaluate("one => getComputedStyle(one).direction") == "rtl"
