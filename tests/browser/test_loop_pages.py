"""The loop, runs, evaluations and versions: what they show, what managers do there, and who may look."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from feedback.services.judge import Judge
from feedback.services.record import record_preference
from inference.models import Deployment
from projects.models import AuditEvent
from tests.browser.cast import turned_loop
from tests.cast import Cast
from training.models import Run, RunEvent


def test_the_ring_is_fresh_without_a_reload_and_keeps_the_focus(
    page: Page, people: Cast, sign_in: Any
) -> None:
    turned_loop(people)
    _, (left, right) = people.answered_prompt("Another one?")
    sign_in(people.bob)
    page.goto("/p/kitchen/")
    feedback = page.locator(".station.feedback .headline")
    expect(feedback).to_have_text("5")
    page.locator("#to-feedback").focus()
    record_preference(
        project=people.project,
        judge=Judge(user=people.carol),
        candidates=[left.pk, right.pk],
        ranks=[1, 2],
        source="ui",
        is_shown=True,
    )
    expect(feedback).to_have_text("6", timeout=10_000)
    expect(page.locator("#to-feedback")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/work/")


def test_a_run_is_followed_live_until_it_is_over(page: Page, people: Cast, sign_in: Any) -> None:
    run = turned_loop(people)
    sign_in(people.bob)
    page.goto("/p/kitchen/runs/3/")
    expect(page.locator('[data-plot="loss"] svg')).to_be_visible()
    expect(page.locator('[data-fact="step"]')).to_have_text("2")
    data = {"step": 3, "total": 8, "metrics": {"loss": 0.31, "reward_accuracy": 0.9}}
    RunEvent.objects.create(run=run, sequence=3, name="progress", data=data)
    Run.objects.filter(pk=run.pk).update(step=3, metrics={"loss": 0.31, "seconds_left": 75})
    expect(page.locator('[data-fact="loss"]')).to_have_text("0.310")
    expect(page.locator('[data-fact="seconds_left"]')).to_have_text("1:15")
    expect(page.get_by_role("img", name="latest: 90 %, step 3")).to_be_visible()
    Run.objects.filter(pk=run.pk).update(
        status="failed", cause="diverged", message="The loss is nan at step 4."
    )
    expect(page.locator('[data-fact="status"]')).to_have_text("failed")
    expect(page.get_by_role("alert")).to_contain_text("The loss is nan at step 4.")


def test_a_manager_cancels_a_run_after_being_asked(page: Page, people: Cast, sign_in: Any) -> None:
    run = turned_loop(people)
    sign_in(people.ada)
    page.goto("/p/kitchen/runs/3/")
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(page.get_by_text("The run is being cancelled.")).to_be_visible()
    run.refresh_from_db()
    assert run.cancel_requested


def test_a_manager_rolls_back_with_a_reason(page: Page, people: Cast, sign_in: Any) -> None:
    turned_loop(people)
    sign_in(people.ada)
    page.goto("/p/kitchen/")
    page.get_by_role("button", name="Roll back to v1").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("Worse on soups.")
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.locator(".toast", has_text="Back to v1")).to_be_visible()
    last = Deployment.objects.filter(project=people.project).first()
    assert last is not None
    assert (last.number, last.kind, last.champion, last.reason, last.user) == (
        3,
        "rollback",
        people.v1,
        "Worse on soups.",
        people.ada,
    )
    assert AuditEvent.objects.filter(
        project=people.project, user=people.ada, subject__contains="deployment"
    ).exists()


def test_a_manager_takes_a_watched_version_back(page: Page, people: Cast, sign_in: Any) -> None:
    turned_loop(people)
    sign_in(people.ada)
    page.goto("/p/kitchen/versions/")
    expect(page.get_by_text("it is watched for 23 hours more")).to_be_visible()
    expect(page.locator(".steps [aria-current]")).to_have_text("100 %")
    page.get_by_role("button", name="Back to v1", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("Worse on soups.")
    dialog.get_by_role("button", name="Go back").click()
    expect(page.locator(".tag", has_text="rolled back")).to_be_visible()
    last = Deployment.objects.filter(project=people.project).first()
    assert last is not None
    assert (last.kind, last.champion, last.reason) == ("rollback", people.v1, "Worse on soups.")


def test_what_is_refused_is_said_where_it_was_typed_and_kept(
    page: Page, people: Cast, sign_in: Any, console: Any
) -> None:
    console.allow("422")
    sign_in(people.ada)
    page.goto("/p/kitchen/")
    page.get_by_role("button", name="Start a run").click()
    dialog = page.get_by_role("dialog", name="Start a run")
    settings, start = dialog.get_by_label("Settings"), dialog.get_by_role("button", name="Start", exact=True)
    settings.fill("{nonsense")
    start.click()
    refusal = dialog.locator(".refusal[role=alert]")
    expect(refusal).to_contain_text("not valid JSON")
    expect(settings).to_have_value("{nonsense")
    settings.fill("")
    start.click()
    expect(refusal).not_to_contain_text("not valid JSON")
    expect(refusal).to_have_count(1)  # there is nothing to learn from yet
    expect(start).to_be_enabled()
    assert not Run.objects.exists()


def test_only_reviewers_see_which_version_wrote_what(page: Page, people: Cast, sign_in: Any) -> None:
    turned_loop(people)
    sign_in(people.carol)
    page.goto("/p/kitchen/evaluations/1/")
    expect(page.locator(".battle")).to_have_count(3)
    expect(page.locator(".battle img")).to_have_count(0)
    page.get_by_role("link", name="Won 2").click()
    expect(page.locator(".battle")).to_have_count(2)
    sign_in(people.bob)
    page.goto("/p/kitchen/evaluations/1/")
    expect(page.get_by_text("The lower bound clears 0.500.")).to_be_visible()
    expect(page.locator(".battle")).to_have_count(0)


@pytest.mark.parametrize(
    "path", ["/p/kitchen/versions/", "/p/garden/", "/p/kitchen/runs/99/", "/p/nowhere/chat/"]
)
def test_what_is_not_ones_own_looks_like_nothing(
    page: Page, people: Cast, sign_in: Any, console: Any, path: str
) -> None:
    console.allow("404")
    sign_in(people.bob)
    response = page.goto(path)
    assert response is not None
    assert response.status == 404
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()
