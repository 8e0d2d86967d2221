"""The admin console: every model is there, facts cannot be changed, and actions call services."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.urls import reverse
from playwright.sync_api import Page, expect

from feedback.models import Rating, SetAside
from feedback.services.judge import Judge
from feedback.services.record import record_flag, record_rating
from inference.models import Deployment, Version
from projects.auth import find_key
from projects.models import ApiKey, AuditEvent, Project, User, WebhookDelivery, WebhookEndpoint
from projects.services.outbox import record_event
from tests.browser.cast import turned_loop
from tests.cast import Cast
from training.models import Run

HTTP_OK = 200


@pytest.fixture
def operator(people: Cast, sign_in: Any) -> User:
    User.objects.filter(pk=people.ada.pk).update(is_staff=True)
    people.ada.refresh_from_db()
    sign_in(people.ada)
    return people.ada


def choose(page: Page, model: type, row: Any, label: str) -> None:
    """Tick the row in its list, and run the action with this label."""
    page.goto(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"))  # type: ignore[attr-defined]
    page.locator(f'input[name="_selected_action"][value="{row.pk}"]').check()
    page.locator("select[name=action]").select_option(label=label)
    page.locator('button[name="index"]').click()


def test_every_model_can_be_looked_at(page: Page, people: Cast, operator: User) -> None:
    turned_loop(people)
    for model in admin.site._registry:
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        response = page.goto(reverse(f"admin:{name}_changelist"))
        assert response is not None
        assert response.status == HTTP_OK, name
        row = model._default_manager.first()
        if row is not None:
            response = page.goto(reverse(f"admin:{name}_change", args=[row.pk]))
            assert response is not None
            assert response.status == HTTP_OK, name


def test_facts_cannot_be_changed(page: Page, people: Cast, operator: User) -> None:
    turned_loop(people)
    for row in (
        Rating.objects.first(),
        Run.objects.first(),
        Version.objects.first(),
        Deployment.objects.first(),
    ):
        assert row is not None
        page.goto(reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk]))
        expect(page.locator("[name=_save]")).to_have_count(0)
        expect(page.locator("main form input:not([type=hidden]), main form textarea")).to_have_count(0)


def test_a_key_is_shown_once(page: Page, people: Cast, operator: User) -> None:
    page.goto(reverse("admin:projects_apikey_add"))
    page.locator("#id_project").select_option(str(people.project.pk))
    page.locator("#id_name").fill("a new program")
    page.get_by_label("generate").check()
    page.locator("button[name=_save]").click()
    value = page.locator("pre code").inner_text()
    key = find_key(value)
    assert (key.name, key.project, key.scopes) == ("a new program", people.project, ["generate"])
    page.goto(reverse("admin:projects_apikey_change", args=[key.pk]))
    assert value not in page.content()
    choose(page, ApiKey, key, "Give another value")
    another = page.locator("pre code").inner_text()
    assert find_key(another) == find_key(value) == key
    choose(page, ApiKey, key, "Revoke")
    expect(page.get_by_text("Revoked: 1")).to_be_visible()
    key.refresh_from_db()
    assert not key.is_usable


def test_an_endpoint_is_made_and_a_dead_letter_sent_again(page: Page, people: Cast, operator: User) -> None:
    page.goto(reverse("admin:projects_webhookendpoint_add"))
    page.locator("#id_project").select_option(str(people.project.pk))
    page.locator("#id_url").fill("http://127.0.0.1:9/hook")
    page.locator("button[name=_save]").click()
    expect(page.get_by_text("127.0.0.1 is no public address")).to_be_visible()
    page.locator("#id_url").fill("https://example.com/hook")
    page.locator("button[name=_save]").click()
    secret = page.locator("pre code").inner_text()
    endpoint = WebhookEndpoint.objects.get()
    assert (endpoint.secret, endpoint.events) == (secret, [])
    people.project.refresh_from_db()
    record_event(project=people.project, name="run.finished", data={"run": 1})
    WebhookDelivery.objects.update(state="dead", attempts=10)
    delivery = WebhookDelivery.objects.get()
    choose(page, WebhookDelivery, delivery, "Send again")
    expect(page.get_by_text("Sent again: 1")).to_be_visible()
    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts) == ("pending", 0)
    choose(page, WebhookEndpoint, endpoint, "Give another secret")
    assert page.locator("pre code").inner_text() not in (secret, "")
    choose(page, WebhookEndpoint, endpoint, "Remove")
    delivery.refresh_from_db()
    assert delivery.state == "dead"


def test_an_answer_that_flags_set_aside_is_released(page: Page, people: Cast, operator: User) -> None:
    _, (answer, _) = people.answered_prompt()
    record_flag(
        project=people.project,
        judge=Judge(user=people.carol),
        completion_id=answer.pk,
        reason="unsafe",
        source="ui",
        is_shown=True,
    )
    choose(page, SetAside, SetAside.objects.get(), "Release")
    expect(page.get_by_text("Released: 1")).to_be_visible()
    answer.refresh_from_db()
    assert not answer.quarantined
    assert SetAside.objects.get().released_by == people.ada


def test_a_judgement_is_taken_back(page: Page, people: Cast, operator: User) -> None:
    _, (answer, _) = people.answered_prompt()
    rating, _ = record_rating(
        project=people.project,
        judge=Judge(user=people.bob),
        completion_id=answer.pk,
        value=1,
        source="ui",
        is_shown=True,
    )
    choose(page, Rating, rating, "Take back")
    expect(page.get_by_text("Taken back: 1")).to_be_visible()
    rating.refresh_from_db()
    assert rating.retracted is not None
    assert AuditEvent.objects.filter(user=operator, action="feedback.retracted").exists()


def test_promoting_asks_for_a_reason_and_says_why_not(page: Page, people: Cast, operator: User) -> None:
    turned_loop(people)
    version = Version.objects.get(project=people.project, number=1)
    choose(page, Version, version, "Promote")
    page.get_by_label("Reason").fill("It was better.")
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("No evaluation of")).to_be_visible()
    assert Deployment.objects.filter(project=people.project).count() == 2


def test_a_rollback_and_a_cancelled_run(page: Page, people: Cast, operator: User) -> None:
    run = turned_loop(people)
    deployment = Deployment.objects.filter(project=people.project).first()
    choose(page, Deployment, deployment, "Roll its project back")
    page.get_by_label("Reason").fill("Worse on soups.")
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_text("Rolled back: 1")).to_be_visible()
    assert Deployment.objects.filter(project=people.project, kind="rollback", user=operator).exists()
    choose(page, Run, run, "Cancel")
    expect(page.get_by_text("Cancelled: 1")).to_be_visible()
    run.refresh_from_db()
    assert run.cancel_requested


def test_a_new_project_serves_and_new_guidelines_are_a_new_edition(
    page: Page, people: Cast, operator: User
) -> None:
    page.goto(reverse("admin:projects_project_add"))
    page.locator("#id_slug").fill("cellar")
    page.locator("#id_name").fill("Cellar")
    page.locator("button[name=_save]").click()
    expect(page.locator("#result_list")).to_contain_text("cellar")
    project = Project.objects.get(slug="cellar")
    assert project.deployments.get().champion.number == 1
    page.goto(reverse("admin:projects_project_change", args=[project.pk]))
    page.locator("#id_guidelines").fill("Prefer what is short.")
    page.locator("button[name=_save]").click()
    expect(page.locator("#result_list")).to_be_visible()
    project.refresh_from_db()
    assert (project.guidelines, project.guideline_version) == ("Prefer what is short.", 2)
    assert AuditEvent.objects.filter(project=project, action="project.changed", user=operator).exists()


def test_a_changed_password_is_audited(page: Page, people: Cast, operator: User) -> None:
    User.objects.filter(pk=operator.pk).update(is_superuser=True)
    page.goto(reverse("admin:auth_user_password_change", args=[people.bob.pk]))
    page.locator("#id_password1").fill("another long password")
    page.locator("#id_password2").fill("another long password")
    page.keyboard.press("Enter")
    page.wait_for_url("**/change/")
    event = AuditEvent.objects.get(action="user.changed")
    assert (event.user, event.subject) == (operator, "user:bob")
    assert "another long password" not in str(event.detail)


def test_who_is_no_operator_stays_outside(page: Page, people: Cast, sign_in: Any) -> None:
    sign_in(people.ada)
    page.goto("/admin/projects/user/")
    expect(page.locator("#result_list")).to_have_count(0)
