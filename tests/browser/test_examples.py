"""The example in JavaScript, as it stands in docs/examples, in a browser's own fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from feedback.models import Rating
from tests.cast import Cast

EXAMPLE = Path(__file__).resolve().parents[2] / "docs/examples/feedback.mjs"


def test_javascript(page: Page, people: Cast, web: Any, console: Any) -> None:
    console.allow("409")  # it shows a refusal
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto("/login/")
    environment = {"RATCHET_URL": str(web.url), "RATCHET_KEY": people.key}
    page.evaluate("it => { globalThis.ratchet = it }", environment)
    page.evaluate(f"async () => {{ {EXAMPLE.read_text()} }}")
    assert [line for line in said if "409" not in line] == [
        "already_judged true",
        "20 thumbs recorded",
        "21 judgements of this answer",
    ]
    assert Rating.objects.filter(source="api").count() == 21
