"""The policy is edited by REST and on its page: checked by field, tried out in a sentence, versioned."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from projects.models import AuditEvent
from projects.services import SYSTEM
from tests.cast import Cast, error_of
from tests.training.conftest import judged
from training.models import Policy, Run
from training.services.policies import tick_policies
from training.services.runs import create_run


def change(cast: Cast, **body: Any) -> Any:
    return cast.post("policy", body, key=cast.manage_key)


def used(cast: Cast, hours: float) -> None:
    """A run of today that took so long."""
    run = create_run(project=cast.project, actor=SYSTEM)
    now = timezone.now()
    Run.objects.filter(pk=run.pk).update(
        status=Run.Status.FINISHED, started=now - timedelta(hours=hours), finished=now
    )


def test_a_project_without_one_has_the_defaults_and_nothing_starts(cast: Cast):
    said = cast.get("policy").json()
    assert (said["is_enabled"], said["method"], said["approval"], said["version"]) == (
        False, "dpo", "manager", 0,
    )  # fmt: skip
    assert said["would"].startswith("It is off, so nothing starts by itself. Would start nothing: ")
    assert not Policy.objects.exists()


def test_what_it_says_is_what_the_tick_starts(base_model: Path, cast: Cast):
    judged(cast, 30)
    said = change(cast, is_enabled=True, min_new_judgements=10, day_hours=24.0).json()
    run = tick_policies()[0]
    assert f"Would start DPO on {run.dataset.rows} pairs" in said["would"]
    assert "0 of 24 device hours used today." in said["would"]
    assert said["would"].endswith("a manager promotes it, step by step.")


def test_a_dry_run_saves_nothing(cast: Cast):
    judged(cast, 30)
    said = change(cast, is_enabled=True, cron="0 3 * * *", method="kto", dry_run=True).json()
    assert (said["method"], said["version"]) == ("kto", 0)
    assert "Would start nothing: " in said["would"]
    assert not Policy.objects.exists()
    assert not AuditEvent.objects.filter(action="policy.set").exists()


def test_each_change_is_a_version_in_the_audit_log(cast: Cast):
    change(cast, is_enabled=True, cron="0 3 * * *")
    assert change(cast, is_enabled=True, cron="0 3 * * *").json()["version"] == 1, "nothing differs"
    assert change(cast, method="kto", watch_hours=0).json()["version"] == 2
    last = AuditEvent.objects.filter(action="policy.set").order_by("-created").first()
    assert last is not None
    assert last.detail == {
        "version": 2,
        "before": {"method": "dpo", "watch_hours": 24},
        "after": {"method": "kto", "watch_hours": 0},
    }
    stale = change(cast, method="dpo", version=1)
    assert (stale.status_code, error_of(stale)["code"]) == (409, "policy_changed")


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"cron": "nightly"}, "cron", "five fields"),
        ({"is_enabled": True}, "cron", "Say when"),
        ({"method": "score"}, "method", "There is no method score"),
        ({"config": {"epochs": 0}}, "config", "epochs"),
        ({"config": {"epoch": 1}}, "config", "epoch"),
        ({"method": "reward-rloo", "config": {"dpo": {}}}, "config", "no stage"),
        ({"method": "reward-rloo", "config": {"reward": {"epochs": -1}}}, "config", "epochs"),
        ({"day_hours": 9.0, "week_hours": 8.0}, "day_hours", "than the week"),
        ({"margin": 0.6}, "margin", "0.5"),
        ({"surprise": 1}, "surprise", ""),
    ],
)
def test_what_is_wrong_is_said_at_its_field(cast: Cast, body: dict[str, Any], field: str, says: str):
    answer = change(cast, **body)
    assert answer.status_code == 422
    error = error_of(answer)
    assert error["param"] == field
    code = {"surprise": "unknown_field", "margin": "invalid_value"}.get(field, "invalid_policy")
    assert error["code"] == code
    assert says in error["message"]
    assert not Policy.objects.exists()


def test_a_budget_that_is_used_up_starts_nothing_and_is_tried_again_later(base_model: Path, cast: Cast):
    judged(cast, 30)
    used(cast, 2.0)
    judged(cast, 10, start=100)
    said = change(cast, is_enabled=True, min_new_judgements=5, week_hours=1.5).json()
    assert "the budget is used up: 2 of 1.5 device hours used in seven days" in said["would"]
    assert tick_policies() == tick_policies() == []
    [skipped] = AuditEvent.objects.filter(action="policy.skipped")
    assert "the budget is used up" in skipped.detail["message"]
    change(cast, week_hours=50.0)
    assert tick_policies() == [], "within the hour it is not asked again"
    assert len(tick_policies(now=timezone.now() + timedelta(hours=1))) == 1


def test_caps_are_the_datasets(base_model: Path, cast: Cast):
    judged(cast, 30)
    change(cast, is_enabled=True, min_new_judgements=10, per_rater_cap=20)
    [run] = tick_policies()
    assert run.dataset.filters["per_rater_cap"] == 20
    assert run.dataset.rows + run.dataset.heldout_rows <= 20


def test_who_may(cast: Cast):
    assert cast.post("policy", {"method": "kto"}).status_code == 403
    cast.client.force_login(cast.carol)
    assert cast.client.get("/p/kitchen/policy/").status_code == 404


# --- the page ---------------------------------------------------------------------------------------------
FORM = {
    "method": "dpo", "approval": "manager", "promotion": "canary", "canary_minutes": "30",
    "canary_answers": "50", "canary_judgements": "5", "watch_hours": "24", "per_prompt_cap": "6",
    "min_battles": "50", "asks_raters": "yes",
}  # fmt: skip


@pytest.fixture
def ada(cast: Cast) -> Client:
    cast.client.force_login(cast.ada)
    return cast.client


def test_the_page_saves_and_shows_what_it_was(cast: Cast, ada: Client):
    assert b"Nobody has set one" in ada.get("/p/kitchen/policy/").content
    sent = {**FORM, "is_enabled": "yes", "cron": "0 3 * * *", "day_hours": "2", "config": '{"epochs": 2}'}
    assert ada.post("/p/kitchen/policy/change", {**sent, "version": "0"}).status_code == 302
    policy = Policy.objects.get()
    assert (policy.cron, policy.day_hours, policy.config, policy.version) == (
        "0 3 * * *",
        2.0,
        {"epochs": 2},
        1,
    )
    page = ada.get("/p/kitchen/policy/").content.decode()
    assert "At times (cron): <strong>0 3 * * *</strong>" in page and 'value="0 3 * * *"' in page
    for version in ("0", "9" * 5000):
        stale = ada.post("/p/kitchen/policy/change", {**sent, "version": version}).content.decode()
        assert "Somebody else changed the policy" in stale


def test_the_page_keeps_what_was_typed_and_says_what_is_wrong_beside_it(cast: Cast, ada: Client):
    wrong = {**FORM, "is_enabled": "yes", "cron": "at night", "day_hours": "two"}
    page = ada.post("/p/kitchen/policy/change", {**wrong, "version": "0"}).content.decode()
    assert 'value="two"' in page and "Write a number, not “two”." in page
    page = ada.post("/p/kitchen/policy/change", {**wrong, "day_hours": "2", "version": "0"}).content.decode()
    assert 'value="at night"' in page and "Write five fields" in page
    assert not Policy.objects.exists()


def test_the_page_tries_it_out(cast: Cast, ada: Client):
    judged(cast, 30)
    sent = {**FORM, "act": "try"}
    part = ada.post("/p/kitchen/policy/change", sent, headers={"HX-Request": "true"}).content.decode()
    assert "Would start DPO on" in part and "<html" not in part
    whole = ada.post("/p/kitchen/policy/change", sent).content.decode()
    assert "Would start DPO on" in whole and "<html" in whole
    assert not Policy.objects.exists()
