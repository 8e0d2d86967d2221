"""Runs that start by themselves: by the clock, by the number of new judgements, and each slot once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import connections
from django.utils import timezone

from projects.models import AuditEvent
from projects.services import SYSTEM
from tests.cast import Cast, make_cast
from tests.inference.adapters import new_version
from tests.training.conftest import judged
from training.models import Dataset, Evaluation, Policy, Run
from training.services import policies
from training.services.policies import tick_policies
from training.services.runs import cancel_run, create_run
from training.services.schedule import next_run_in_words

NIGHT = datetime(2026, 3, 2, 3, 0, 30, tzinfo=UTC)


@pytest.fixture
def policy(cast: Cast) -> Policy:
    judged(cast, 24)
    return Policy.objects.create(project=cast.project, is_enabled=True)


def by_cron(policy: Policy, cron: str = "0 3 * * *") -> None:
    policy.cron = cron
    policy.save(update_fields=["cron"])


def by_number(policy: Policy, count: int) -> None:
    policy.min_new_judgements = count
    policy.save(update_fields=["min_new_judgements"])


def end(run: Run) -> None:
    cancel_run(run=run, actor=SYSTEM)


def test_a_cron_starts_a_run_at_its_time_and_once(policy: Policy):
    by_cron(policy)
    assert tick_policies(now=NIGHT - timedelta(minutes=1)) == []
    [run] = tick_policies(now=NIGHT)
    assert (run.slot, run.status, run.created_by) == ("cron:2026-03-02T03:00:00+00:00", "queued", None)
    end(run)
    assert tick_policies(now=NIGHT + timedelta(seconds=10)) == []
    [next_day] = tick_policies(now=NIGHT + timedelta(days=1))
    assert next_day.slot == "cron:2026-03-03T03:00:00+00:00"


def test_a_slot_that_beat_slept_through_runs_within_the_hour_and_not_later(policy: Policy):
    by_cron(policy)
    assert tick_policies(now=NIGHT + timedelta(hours=2)) == []
    assert len(tick_policies(now=NIGHT + timedelta(minutes=50))) == 1


def test_enough_new_judgements_start_a_run_and_are_then_old(policy: Policy, cast: Cast):
    by_number(policy, 25)
    assert tick_policies() == []
    judged(cast, 1, start=100)
    [run] = tick_policies()
    assert run.slot == "judgements:after-run-0"
    end(run)
    assert tick_policies() == []
    judged(cast, 25, start=200)
    [second] = tick_policies()
    assert second.slot == "judgements:after-run-1"
    assert second.dataset.manifest["counts"]["used"] == 50, (
        "a dataset holds all that is usable, not the new alone"
    )


def test_nothing_starts_beside_an_active_run(policy: Policy, cast: Cast):
    create_run(project=cast.project, actor=SYSTEM)
    by_cron(policy)
    assert tick_policies(now=NIGHT) == []


def test_a_disabled_policy_starts_nothing(policy: Policy):
    by_cron(policy)
    Policy.objects.update(is_enabled=False)
    assert tick_policies(now=NIGHT) == []


def test_what_cannot_start_is_said_once_and_tried_again_with_more_judgements(cast: Cast):
    judged(cast, 4)
    policy = Policy.objects.create(project=cast.project, is_enabled=True, cron="0 3 * * *")
    for second in (0, 10):
        assert tick_policies(now=NIGHT + timedelta(seconds=second)) == []
    [event] = AuditEvent.objects.filter(action="policy.skipped")
    assert "at least 16 pairs" in event.detail["message"]
    judged(cast, 20, start=50)
    assert len(tick_policies(now=NIGHT + timedelta(seconds=20))) == 1
    assert policy.project.runs.count() == 1


def test_what_a_policys_run_made_is_evaluated_once(policy: Policy, cast: Cast, tmp_path, monkeypatch):
    held: list[Evaluation] = []
    monkeypatch.setattr(policies, "hold_candidate", held.append)
    cast.prompt(split="gate")
    version = new_version(cast.project, tmp_path)
    run = create_run(project=cast.project, actor=SYSTEM, slot="cron:x")
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FINISHED, version=version)
    tick_policies()
    tick_policies()
    [evaluation] = Evaluation.objects.all()
    assert (evaluation.candidate, evaluation.is_sampled, evaluation.status) == (version, True, "answering")
    assert held == [evaluation]


def test_a_run_that_a_person_started_is_not_evaluated_by_itself(policy: Policy, cast: Cast, tmp_path):
    cast.prompt(split="gate")
    run = create_run(project=cast.project, actor=SYSTEM)
    Run.objects.filter(pk=run.pk).update(
        status=Run.Status.FINISHED, version=new_version(cast.project, tmp_path)
    )
    tick_policies()
    assert not Evaluation.objects.exists()


@pytest.mark.parametrize("what", ["run", "evaluation"])
def test_two_beats_at_once_do_it_once(transactional_db: None, tmp_path, monkeypatch, what: str):
    monkeypatch.setattr(policies, "hold_candidate", lambda evaluation: None)
    cast = make_cast()
    judged(cast, 24)
    cast.prompt(split="gate")
    Policy.objects.create(project=cast.project, is_enabled=True, cron="0 3 * * *")
    moment = NIGHT
    if what == "evaluation":
        run = create_run(project=cast.project, actor=SYSTEM, slot="cron:x")
        version = new_version(cast.project, tmp_path)
        Run.objects.filter(pk=run.pk).update(status=Run.Status.FINISHED, version=version)
        moment = NIGHT - timedelta(hours=5)
    barrier = threading.Barrier(4)
    failures: list[Exception] = []

    def beat() -> None:
        try:
            barrier.wait()
            tick_policies(now=moment)
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)
        finally:
            connections.close_all()

    beats = [threading.Thread(target=beat) for _ in range(4)]
    for thread in beats:
        thread.start()
    for thread in beats:
        thread.join()
    assert failures == []
    assert Run.objects.count() == Dataset.objects.count() == 1
    assert Evaluation.objects.count() == (1 if what == "evaluation" else 0)


@pytest.mark.parametrize("cron", ["", "0 3 * * *", "*/5 * * * 1-5"])
def test_a_cron_has_five_fields(policy: Policy, cron: str):
    policy.cron = cron
    policy.full_clean()


@pytest.mark.parametrize("cron", ["nightly", "0 3 * *", "61 3 * * *", "0 3 * * * *"])
def test_another_cron_is_refused(policy: Policy, cron: str):
    policy.cron = cron
    with pytest.raises(ValidationError):
        policy.full_clean()


def test_the_next_run_in_words(policy: Policy):
    assert next_run_in_words(None, NIGHT) == "No policy: a manager starts runs."
    by_cron(policy)
    by_number(policy, 30)
    words = next_run_in_words(policy, timezone.now().replace(2026, 3, 2, 1, 0))
    assert words == "Next run at 2026-03-02 03:00, or after 6 more judgements."
