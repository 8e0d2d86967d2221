"""Runs by REST: queued after a check, looked at, followed, called off."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import IntegrityError, transaction
from django.test import AsyncClient
from django.utils import timezone

from projects.services import SYSTEM
from tests.cast import Cast, error_of
from tests.training.conftest import Scripted, judged
from training.models import Dataset, Run, RunEvent
from training.services.compiler import compile_dataset
from training.services.runs import SlotTaken, create_run
from training.tasks import tick_runs


def test_a_run_is_queued_with_every_hyperparameter_written_out(cast: Cast):
    judged(cast, 24)
    answer = cast.post("runs", {"method": "dpo", "config": {"learning_rate": 0.001}}, key=cast.manage_key)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["number"], body["status"], body["dataset"], body["version"]) == (1, "queued", 1, None)
    assert (body["config"]["learning_rate"], body["config"]["beta"]) == (0.001, 0.1)
    run = Run.objects.get()
    assert body["total_steps"] == run.total_steps > 0
    assert not run.folder.exists(), "nothing is written before a trainer claims it"
    assert cast.get("runs/1").json() == {**body, "alarms": []}
    assert cast.get("runs").json()["items"] == [body]


def test_a_dataset_can_be_chosen(cast: Cast):
    judged(cast, 24)
    dataset = compile_dataset(project=cast.project, actor=SYSTEM)
    judged(cast, 3, start=50)
    body = cast.post("runs", {"dataset": dataset.number}, key=cast.manage_key).json()
    assert body["dataset_digest"] == dataset.digest
    assert Dataset.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"method": "magic"}, "invalid_value", "There is no method magic"),
        ({"config": {"learning_rat": 1e-3}}, "invalid_value", "learning_rate"),
        ({"config": {"warmup_ratio": 3.0}}, "preflight_failed", "Did you mean warmup_steps"),
        ({"config": {"batch_size": 500}}, "preflight_failed", "batch_size"),
        ({"config": {"batch_size": "8"}}, "invalid_value", "batch_size"),
        ({"seed": -1}, "invalid_value", "seed"),
        ({"dataset": 77}, "not_found", "no such dataset"),
        ({"colour": "red"}, "unknown_field", "colour"),
    ],
)
def test_what_would_fail_is_said_before_anything_is_queued(cast: Cast, body, code, said):
    judged(cast, 24)
    error = error_of(cast.post("runs", body, key=cast.manage_key))
    assert error["code"] == code
    assert said in error["message"]
    assert not Run.objects.exists()
    assert not Dataset.objects.exists()


def test_too_few_pairs_are_a_sentence(cast: Cast):
    judged(cast, 3)
    error = error_of(cast.post("runs", {}, key=cast.manage_key))
    assert (error["code"], len(error["problems"])) == ("preflight_failed", 1)
    assert "at least 16 pairs" in error["message"]
    assert not Dataset.objects.exists()


def test_who_may(cast: Cast):
    judged(cast, 24)
    assert cast.post("runs", {}).status_code == 403
    assert cast.post("runs", {}, key="").status_code == 401
    assert cast.post("runs", {}, key=cast.manage_key).status_code == 201
    assert cast.get("runs/1", key=cast.foreign_key).status_code == 404
    assert cast.post("runs/1/cancel", {}, key=cast.foreign_key).status_code == 404
    assert cast.get("runs/99").status_code == 404
    assert cast.get("runs/99999999999999999999").status_code == 404


def test_a_waiting_run_is_cancelled_at_once_and_only_once(cast: Cast):
    judged(cast, 24)
    cast.post("runs", {}, key=cast.manage_key)
    body = cast.post("runs/1/cancel", {}, key=cast.manage_key).json()
    assert (body["status"], body["cause"]) == ("cancelled", "cancelled")
    assert error_of(cast.post("runs/1/cancel", {}, key=cast.manage_key))["code"] == "run_over"


def test_a_cancelled_run_goes_on_and_no_other(cast: Cast):
    judged(cast, 24)
    cast.post("runs", {}, key=cast.manage_key)
    assert error_of(cast.post("runs/1/resume", {}, key=cast.manage_key))["code"] == "run_not_over"
    cast.post("runs/1/cancel", {}, key=cast.manage_key)
    assert cast.post("runs/1/resume", {}).status_code == 403
    assert cast.post("runs/1/resume", {}, key=cast.foreign_key).status_code == 404
    body = cast.post("runs/1/resume", {}, key=cast.manage_key).json()
    assert (body["status"], body["cause"], body["finished"]) == ("queued", "", None)
    cast.post("runs/1/cancel", {}, key=cast.manage_key)
    Dataset.objects.update(status=Dataset.Status.ERASED)
    assert error_of(cast.post("runs/1/resume", {}, key=cast.manage_key))["code"] == "dataset_erased"


def test_a_slot_runs_once(cast: Cast):
    judged(cast, 24)
    create_run(project=cast.project, actor=SYSTEM, slot="cron:1")
    with pytest.raises(SlotTaken) as refused:
        create_run(project=cast.project, actor=SYSTEM, slot="cron:1")
    assert refused.value.code == "slot_taken"
    [run] = Run.objects.all()
    with pytest.raises(IntegrityError), transaction.atomic():
        Run.objects.create(project=cast.project, number=2, dataset=run.dataset, slot="cron:1")


# --- the stream of events -----------------------------------------------------------------------------
@async_to_sync
async def _read_all(
    cast: Cast, headers: dict[str, str] | None = None
) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, event, data) of every frame of run 1's stream."""
    answer: Any = await AsyncClient().get("/api/v1/runs/1/events", headers={**cast.auth(), **(headers or {})})
    assert answer.headers["Content-Type"] == "text/event-stream"
    text = b"".join([chunk async for chunk in answer.streaming_content]).decode()
    frames = []
    for frame in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines())
        frames.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return frames


@pytest.fixture
def told(transactional_db: None, cast: Cast) -> Run:
    """A finished run with three events."""
    judged(cast, 24)
    run = create_run(project=cast.project, actor=SYSTEM)
    for sequence, name in ((0, "started"), (40, "progress"), (90, "finished")):
        RunEvent.objects.create(run=run, sequence=sequence, name=name, data={"step": sequence})
    ended = timezone.now() + timedelta(seconds=5)
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FINISHED, finished=ended)
    return run


def test_a_run_is_followed_to_its_end(told: Run, cast: Cast):
    frames = _read_all(cast)
    assert [name for _, name, _ in frames] == ["started", "progress", "finished", "run", "end"]
    assert [id_ for id_, _, _ in frames[:3]] == ["0", "40", "90"]
    assert frames[3][2]["status"] == "finished"
    assert frames[-1][2] == {"status": "finished", "cause": ""}


def test_a_reader_that_comes_back_goes_on_where_it_was(told: Run, cast: Cast):
    frames = _read_all(cast, {"Last-Event-ID": "40"})
    assert [name for _, name, _ in frames] == ["finished", "run", "end"]


def test_a_stream_of_a_foreign_run_is_404(told: Run, cast: Cast):
    answer = async_to_sync(AsyncClient().get)("/api/v1/runs/1/events", headers=cast.auth(cast.foreign_key))
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["post", "head"])
def test_events_are_only_read(told: Run, cast: Cast, method: str):
    client = AsyncClient()
    answer: Any = async_to_sync(getattr(client, method))("/api/v1/runs/1/events", headers=cast.auth())
    assert (answer.status_code, answer["Allow"]) == (405, "GET")
    assert method == "head" or error_of(answer)["code"] == "method_not_allowed"


def test_a_lost_broker_loses_nothing(base_model, transactional_db, cast: Cast, monkeypatch):
    """The bell cannot be rung: the request is answered all the same, and the run waits for the beat."""
    rung = []

    def refuse(**options):
        rung.append(options)
        raise ConnectionError("the broker is away")

    monkeypatch.setattr(tick_runs, "apply_async", refuse)
    judged(cast, 24)
    assert cast.post("runs", {}, key=cast.manage_key).status_code == 201
    assert len(rung) == 1
    assert Run.objects.get().status == Run.Status.QUEUED


def test_a_run_happens_without_a_bell(scripted: Scripted):
    """Bells only hurry: what beat calls finds the row."""
    run = scripted.run()
    scripted.tick_until(run, lambda run: not run.is_active or tick_runs() is not None)
    assert run.status == Run.Status.FINISHED
