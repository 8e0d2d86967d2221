"""The policy's page: tried out before it is saved, by keyboard alone."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.cast import Cast
from tests.training.conftest import judged
from training.models import Policy


def test_it_is_tried_out_in_a_sentence_and_saved_without_a_pointer(
    page: Page, people: Cast, sign_in: Any
) -> None:
    judged(people, 30)
    sign_in(people.ada)
    page.goto("/p/kitchen/policy/")
    page.get_by_label("After so many new judgements").fill("20")
    page.get_by_label("Runs start by themselves").press("Space")
    page.get_by_label("Device hours a day").fill("2")
    page.get_by_role("button", name="What would it do now?").press("Enter")
    expect(page.get_by_text("Would start DPO on")).to_be_visible()
    assert not Policy.objects.exists()
    page.get_by_label("Device hours a day").press("Enter")
    expect(page.get_by_text("The policy is saved.")).to_be_visible()
    policy = Policy.objects.get()
    assert (policy.min_new_judgements, policy.is_enabled, policy.day_hours) == (20, True, 2.0)


def test_what_is_wrong_is_said_at_its_field(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.ada)
    page.goto("/p/kitchen/policy/")
    page.get_by_label("At times (cron)").fill("each night")
    page.get_by_role("button", name="Save").press("Enter")
    cron = page.get_by_label("At times (cron)")
    expect(cron).to_have_attribute("aria-invalid", "true")
    expect(cron).to_have_value("each night")
    expect(cron).to_have_accessible_description(
        "Write five fields, such as 0 3 * * * for each night at three."
    )
