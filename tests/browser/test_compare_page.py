"""On the compare page a rater judges pairs, one after the other, by key and by button."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from feedback.models import Assignment, Preference
from tests.browser.cast import comparisons
from tests.cast import Cast

NEXT_MS = 100


def question(page: Page) -> str:
    return page.locator(".question").inner_text()


@pytest.mark.parametrize(
    ("key", "ranks", "all_bad"),
    [
        ("1", [1, 2], False),
        ("ArrowLeft", [1, 2], False),
        ("2", [2, 1], False),
        ("ArrowRight", [2, 1], False),
        ("0", [1, 1], False),
        ("t", [1, 1], False),
        ("b", [None, None], True),
    ],
)
def test_votes_by_key(
    page: Page, people: Cast, sign_in: Any, key: str, ranks: list[int | None], all_bad: bool
) -> None:
    comparisons(people, 1)
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/")
    left = page.locator('[data-side="left"] .prose').inner_text()
    page.keyboard.press(key)
    expect(page.get_by_text("Nothing to compare just now")).to_be_visible()
    preference = Preference.objects.get()
    sides = list(preference.candidates.order_by("position").select_related("completion"))
    assert sides[0].completion.text == left
    assert [side.rank for side in sides] == ranks
    assert preference.all_bad == all_bad
    assert preference.rater == people.bob
    assert preference.seconds_spent is not None


def test_votes_by_button_and_a_double_click_is_one_vote(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 1)
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/")
    page.get_by_role("button", name="Left is better").dblclick()
    expect(page.get_by_text("Nothing to compare just now")).to_be_visible()
    assert Preference.objects.count() == 1


def test_the_next_question_is_there_at_once(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 6)
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/")
    page.evaluate(
        """() => {
            window.waits = [];
            let pressed = 0;
            addEventListener("keydown", () => { pressed = performance.now(); }, true);
            const painted = () => window.waits.push(performance.now() - pressed);
            new MutationObserver(() => requestAnimationFrame(painted))
                .observe(document.getElementById("compare"), { childList: true });
        }"""
    )
    seen = set()
    for _ in range(4):
        before = question(page)
        seen.add(before)
        expect(page.locator("#compare")).to_have_attribute("data-ahead", "1")
        page.keyboard.press("1")
        expect(page.locator(".question")).not_to_have_text(before)
    assert len(seen) == 4
    waits = sorted(page.evaluate("window.waits"))
    assert waits[len(waits) // 2] < NEXT_MS, waits
    expect(page.locator("[data-waiting]")).to_have_text("2 are waiting")


def test_skips_and_undoes(page: Page, people: Cast, sign_in: Any) -> None:
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/")
    first = question(page)
    with page.expect_response("**/vote"):
        page.keyboard.press("s")
    expect(page.locator(".question")).not_to_have_text(first)
    assert Assignment.objects.get(state="skipped").rater == people.bob
    page.keyboard.press("u")
    expect(page.locator(".question")).to_have_text(first)
    page.get_by_role("button", name="Right is better").click()
    expect(page.locator(".question")).not_to_have_text(first)
    with page.expect_response("**/undo"):
        page.get_by_role("button", name="Undo").click()
    expect(page.locator(".question")).to_have_text(first)
    assert not Preference.objects.usable().exists()


def test_a_vote_without_a_network_is_kept_and_sent_later(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/", wait_until="networkidle")
    context.set_offline(True)
    page.keyboard.press("1")
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    assert not Preference.objects.exists()
    context.set_offline(False)
    expect(page.get_by_text("has arrived")).to_be_visible()
    assert Preference.objects.count() == 1


def test_a_vote_outlives_its_tab(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    comparisons(people, 2)
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/", wait_until="networkidle")
    context.set_offline(True)
    page.keyboard.press("2")
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    page.close()
    context.set_offline(False)
    again = context.new_page()
    again.goto("/p/kitchen/compare/", wait_until="networkidle")
    assert Preference.objects.count() == 1


def test_nothing_to_compare_says_where_comparisons_come_from(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/compare/")
    expect(page.get_by_text("A comparison needs a question with two finished answers")).to_be_visible()
