"""Every page: nothing serious for axe, nothing wider than a phone or 400 % zoom, no console error."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from feedback.services.judge import Judge
from feedback.services.record import record_flag
from tests.browser.cast import comparisons, somebody_erased, talk, turned_loop
from tests.cast import Cast

PATHS = [
    "/",
    "/p/kitchen/",
    "/p/kitchen/chat/",
    "/p/kitchen/chat/{conversation}/",
    "/p/kitchen/work/",
    "/p/kitchen/battle/",
    "/p/kitchen/leaderboard/",
    "/p/kitchen/taught/",
    "/p/kitchen/set-aside/",
    "/p/kitchen/tasks/",
    "/p/kitchen/prompts/import",
    "/p/kitchen/raters/",
    "/p/kitchen/workbench/",
    "/p/kitchen/metrics/?window=1h",
    "/p/kitchen/datasets/",
    "/p/kitchen/datasets/1/",
    "/p/kitchen/runs/",
    "/p/kitchen/runs/2/",
    "/p/kitchen/runs/3/",
    "/p/kitchen/runs/compare?run=2&run=3",
    "/p/kitchen/evaluations/1/",
    "/p/kitchen/versions/",
    "/p/kitchen/lineage/",
    "/p/kitchen/accounting/",
    "/p/kitchen/erasures/",
    "/p/kitchen/erasures/1/",
    "/p/kitchen/lineage/version/v2/",
    "/p/kitchen/policy/",
    "/p/garden/work/",
    "/p/garden/",
]
# Tables that somebody would have to push to and fro.
SIDEWAYS = """() => [...document.querySelectorAll(".scroll:has(> table)")]
    .filter((place) => place.scrollWidth > place.clientWidth).map((place) => place.innerText.slice(0, 200))"""
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}


@pytest.fixture
def places(people: Cast) -> list[str]:
    """The paths, with something on each page."""
    turned_loop(people)
    comparisons(people, 2)
    for text in ("A flagged answer?", "Another one?"):
        _, (flagged, _) = people.answered_prompt(text)
        record_flag(
            project=people.project,
            judge=Judge(user=people.carol),
            completion_id=flagged.pk,
            reason="unsafe",
            comment="Look at this: " + "z" * 120,
            source="ui",
            is_shown=True,
        )
    somebody_erased(people)
    people.bob.is_staff = True  # an operator: sees both projects and all that managers see
    people.bob.save(update_fields=["is_staff"])
    conversation, _ = talk(people, "A long word: " + "x" * 200, "One.", "Two with `code` " + "y" * 200)
    return [path.format(conversation=conversation.pk) for path in PATHS]


def serious(page: Page) -> list[str]:
    found = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:300]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    page: Page, people: Cast, places: list[str], sign_in: Any, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.goto("/login/")
    assert serious(page) == [], "sign-in"
    sign_in(people.bob)
    for path in places:
        page.goto(path)
        page.locator("#main").wait_for()
        assert serious(page) == [], path


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 256)])
def test_nothing_is_wider_than_the_screen(
    page: Page, people: Cast, places: list[str], sign_in: Any, width: int, height: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    sign_in(people.bob)
    for path in places:
        page.goto(path)
        page.locator("#main").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(SIDEWAYS) == [], path


def test_help_and_guidelines_are_one_key_away(page: Page, people: Cast, sign_in: Any) -> None:
    people.project.guidelines = "Prefer **short** answers."
    people.project.save(update_fields=["guidelines"])
    sign_in(people.bob)
    page.goto("/p/kitchen/work/")
    page.keyboard.press("Enter")  # the guidelines are read: begin
    page.get_by_role("heading", name="Work").wait_for()
    page.wait_for_load_state("networkidle")
    page.keyboard.press("g")
    expect(page.get_by_role("dialog").locator("strong")).to_have_text("short")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("All are bad")


def test_signing_out_needs_no_pointer(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/")
    page.get_by_text("bob").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/login/")


def test_a_page_works_on_a_phone(chromium: Browser, web: Any, people: Cast, sign_in: Any, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    sign_in(people.bob)
    talk(people)
    page.goto("/p/kitchen/chat/")
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("link", name="How do I boil an egg?").click()
    page.get_by_role("button", name="Thumb up").click()
    expect(page.get_by_role("button", name="Thumb up")).to_have_attribute("aria-pressed", "true")
