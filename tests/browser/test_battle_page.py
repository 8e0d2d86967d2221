"""A blind battle on the page: by keys alone with a reload in the middle, and by pointer."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from feedback.models import Preference
from tests.cast import Cast

pytestmark = pytest.mark.usefixtures("engine")
ANSWER_MS = 60_000


def test_a_battle_by_keys_alone(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/battle/")
    page.keyboard.type("How do I boil an egg?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Left answer")).to_be_visible()
    page.reload()
    expect(page.locator("[data-text]")).to_have_count(0, timeout=ANSWER_MS)
    expect(page.locator("#battle")).not_to_contain_text("v1")
    page.keyboard.press("2")
    expect(page.get_by_role("status").filter(has_text="right answer")).to_be_visible()
    expect(page.locator("#battle h2").first).to_contain_text("v1")
    row = Preference.objects.get()
    assert [one.rank for one in row.candidates.all()] == [2, 1]
    page.keyboard.press("u")
    expect(page.get_by_role("button", name="Both bad")).to_be_visible()
    row.refresh_from_db()
    assert row.retracted
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Undo the vote")


def test_an_early_vote_on_its_button_counts(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.bob)
    page.goto("/p/kitchen/")
    page.get_by_role("link", name="Battle").click()
    page.get_by_label("Your question").fill("Why is the sky blue?")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("button", name="Both bad").press("Enter")  # whether or not they have ended
    expect(page.get_by_role("status").filter(has_text="both are bad")).to_be_visible()
    expect(page.get_by_role("link", name="New battle")).to_be_focused()
    expect(page.locator("[data-text]")).to_have_count(0, timeout=ANSWER_MS)
    expect(page.locator("#verdict")).not_to_contain_text("counts when")
    assert Preference.objects.get().all_bad
    page.get_by_role("link", name="New battle").click()
    expect(page.get_by_label("Your question")).to_be_focused()


def test_a_vote_without_a_network_arrives_once_from_the_next_page(
    page: Page, people: Cast, sign_in: Any, context: BrowserContext, console: Any
) -> None:
    console.allow("ERR_INTERNET_DISCONNECTED")
    sign_in(people.bob)
    page.goto("/p/kitchen/battle/")
    page.get_by_label("Your question").fill("Why is the sky blue?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Left answer")).to_be_visible()
    expect(page.locator("[data-text]")).to_have_count(0, timeout=ANSWER_MS)
    context.set_offline(True)
    page.keyboard.press("1")
    expect(page.locator("#unsent")).to_contain_text("What you said is kept here")
    expect(page.locator('[data-side="left"]')).to_have_class("side is-chosen")
    page.keyboard.press("2")  # the first one stands
    page.close()
    assert not Preference.objects.exists()
    context.set_offline(False)
    again = context.new_page()
    again.goto("/p/kitchen/battle/")
    again.wait_for_function("() => !Object.keys(localStorage).some((key) => key.includes('outbox'))")
    assert [one.rank for one in Preference.objects.get().candidates.all()] == [1, 2]
    again.get_by_role("link", name="Why is the sky blue?").click()
    expect(again.get_by_role("status").filter(has_text="left answer")).to_be_visible()
    context.set_offline(True)
    again.keyboard.press("u")
    expect(again.locator("#unsent")).to_contain_text("What you said is kept here")
    context.set_offline(False)
    expect(again.get_by_text("What you said has arrived.")).to_be_visible()
    again.keyboard.press("b")
    expect(again.get_by_role("status").filter(has_text="both are bad")).to_be_visible()
    assert Preference.objects.usable().get().all_bad
