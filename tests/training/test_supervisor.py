"""A run's life: launched, watched, finished, and every way in which it ends before that."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connections
from django.utils import timezone

from inference.artifact import write_manifest
from inference.models import Version
from projects.models import AuditEvent
from projects.services import SYSTEM
from tests.training.conftest import Scripted, judged
from training.launchers import local
from training.models import Run, RunEvent
from training.services import events, leases, methods, supervisor
from training.services.runs import cancel_run


def is_watched(run: Run) -> bool:
    """The child works, and has said so."""
    return run.step >= 1


def claimed(run: Run) -> Run:
    held = leases.claim_run(run.id)
    assert held is not None
    return held


def is_alive(pid: int) -> bool:
    return local._is_same_process(pid, local._start_of(pid))


def test_a_run_becomes_a_version(scripted: Scripted):
    run = scripted.tick_until(scripted.run())

    assert (run.status, run.cause, run.message) == (Run.Status.FINISHED, "", "")
    assert (run.step, run.total_steps, run.attempt) == (3, 3, 1)
    assert run.version is not None
    assert run.version.number == 2
    assert run.version.manifest["dataset"] == run.dataset.digest
    assert run.metrics["loss"] == 0.2333
    assert run.metrics["heldout_accuracy"] == 0.75
    assert run.compute == {"tokens": {"train": 300}, "pf_days": 1e-9}
    names = list(run.events.values_list("name", flat=True))
    assert names == ["started", "progress", "progress", "progress", "finished"]
    spec = json.loads((run.folder / "run.json").read_text())
    assert spec["config"] == run.config
    assert spec["dataset"]["digest"] == run.dataset.digest
    assert not (run.folder / "checkpoints").exists()


def test_ticks_after_the_end_change_nothing(scripted: Scripted):
    run = scripted.tick_until(scripted.run())
    before = Run.objects.values().get(pk=run.pk)
    supervisor.tick(run.id)
    assert supervisor.tick_all() == 0
    assert Run.objects.values().get(pk=run.pk) == before
    assert Version.objects.filter(project=run.project).count() == 2


def test_a_killed_child_goes_on_from_its_checkpoint(scripted: Scripted):
    run = scripted.tick_until(scripted.run(at={"2": "kill"}))
    assert (run.status, run.attempt) == (Run.Status.FINISHED, 2)
    started = [row.data["step"] for row in run.events.filter(name="started")]
    assert started == [0, 1], "the second attempt began after the last checkpoint"


def test_a_child_that_is_always_killed_is_lost_after_three_attempts(scripted: Scripted):
    run = scripted.tick_until(scripted.run(at={"1": "always_kill"}))
    assert (run.status, run.cause, run.attempt) == (Run.Status.FAILED, Run.Cause.LOST, 3)
    assert "signal 9" in run.message
    assert "attempt 3 of 3" in run.message
    assert run.version is None


def test_a_frozen_child_is_killed_and_resumed(scripted: Scripted, settings):
    run = scripted.tick_until(scripted.run(at={"2": "freeze"}), lambda run: (run.folder / "did-2").exists())
    frozen = run.handle["pid"]
    settings.RUN_SILENCE_SECONDS = 1
    run = scripted.tick_until(run, lambda run: run.handle == {})
    settings.RUN_SILENCE_SECONDS = 60
    run = scripted.tick_until(run)
    assert (run.status, run.attempt) == (Run.Status.FINISHED, 2)
    assert not is_alive(frozen)


def test_an_interrupted_child_goes_on_and_that_is_no_attempt(scripted: Scripted):
    run = scripted.tick_until(scripted.run(at={"2": "interrupt"}))
    assert (run.status, run.attempt) == (Run.Status.FINISHED, 1)
    assert run.events.filter(name="failed").count() == 1


def test_a_child_that_is_stopped_before_it_listens_goes_on_and_that_is_no_attempt(scripted: Scripted):
    run = scripted.run(at={"1": "deaf"})
    assert scripted.tick_until(run).attempt == 1
    assert run.status == Run.Status.FINISHED


def test_a_trainer_that_stops_has_its_child_save_and_end(scripted: Scripted):
    run = scripted.tick_until(scripted.run(steps=500), is_watched)
    assert local.interrupt_children() == 1
    run = scripted.tick_until(run, lambda run: run.handle == {"interrupted": True})
    assert run.status == Run.Status.RUNNING


@pytest.mark.parametrize(
    ("what", "cause"),
    [("data", Run.Cause.DATA), ("diverged", Run.Cause.DIVERGED), ("silent_exit", Run.Cause.INTERNAL)],
)
def test_some_ends_are_final_and_named(scripted: Scripted, what: str, cause: str):
    run = scripted.tick_until(scripted.run(at={"2": what}))
    assert (run.status, run.cause, run.attempt) == (Run.Status.FAILED, cause, 1)
    assert run.message


def test_out_of_memory_tries_again_with_half_the_batch(scripted: Scripted):
    run = scripted.tick_until(scripted.run(config={"batch_size": 8}, at={"2": "oom"}))
    assert (run.status, run.attempt) == (Run.Status.FINISHED, 2)
    assert (run.config["batch_size"], run.config["gradient_accumulation"]) == (4, 2)
    assert json.loads((run.folder / "run.json").read_text())["config"] == run.config
    assert [row.data["step"] for row in run.events.filter(name="started")] == [0, 0], (
        "another batch begins anew"
    )


@pytest.mark.parametrize("end", ["flipped", "bare", "foreign", "pickle"])
def test_a_bad_artifact_is_refused_and_nothing_is_registered(scripted: Scripted, end: str):
    run = scripted.tick_until(scripted.run(end=end))
    assert (run.status, run.cause) == (Run.Status.FAILED, Run.Cause.INTERNAL)
    assert "damaged" in run.message
    assert list(Version.objects.filter(project=run.project).values_list("number", flat=True)) == [1]


def test_a_damaged_dataset_never_reaches_a_child(scripted: Scripted):
    run = scripted.run()
    shard = run.dataset.folder / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == (Run.Status.FAILED, Run.Cause.DATA)
    assert "train-00000.parquet" in run.message
    assert not (run.folder / "log.txt").exists()


def test_another_base_than_the_projects_is_refused(scripted: Scripted, base_model):
    run = scripted.run()
    (base_model / "config.json").write_text('{"other": true}')
    write_manifest(base_model, kind="base")
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == (Run.Status.FAILED, Run.Cause.DATA)
    assert "MODEL_DIR" in run.message


def test_a_running_run_is_cancelled_and_its_child_is_gone(scripted: Scripted):
    run = scripted.tick_until(scripted.run(steps=500), is_watched)
    pid = run.handle["pid"]
    cancel_run(run=run, actor=SYSTEM)
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == (Run.Status.CANCELLED, Run.Cause.CANCELLED)
    assert not is_alive(pid)
    assert AuditEvent.objects.filter(action="run.cancelled", subject="run:1").exists()


def test_a_run_that_takes_too_long_is_stopped(scripted: Scripted):
    run = scripted.tick_until(scripted.run(steps=500), is_watched)
    Run.objects.filter(pk=run.pk).update(started=timezone.now() - timedelta(days=2))
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == (Run.Status.FAILED, Run.Cause.TIMEOUT)


def test_one_trainer_runs_one_at_a_time(scripted: Scripted):
    first, second = scripted.run(steps=500), scripted.run()
    scripted.tick_until(first, is_watched)
    supervisor.tick_all()
    second.refresh_from_db()
    assert second.status == Run.Status.QUEUED
    cancel_run(run=first, actor=SYSTEM)
    scripted.tick_until(first)
    assert scripted.tick_until(second).status == Run.Status.FINISHED


def test_two_trainers_run_two(scripted: Scripted, settings):
    first, second = scripted.run(steps=500), scripted.run()
    scripted.tick_until(first, is_watched)
    settings.TRAINER = "the other"
    assert scripted.tick_until(second).status == Run.Status.FINISHED


# --- leases and fences --------------------------------------------------------------------------------
def as_another_worker(run: Run, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    monkeypatch.setattr(leases, "owner_name", lambda: owner)


def test_a_run_held_by_a_living_worker_is_left_alone(scripted: Scripted, monkeypatch):
    run = scripted.tick_until(scripted.run(steps=500), is_watched)
    fence = run.fence
    as_another_worker(run, monkeypatch, "elsewhere/1/0.0")
    supervisor.tick(run.id)
    run.refresh_from_db()
    assert run.fence == fence


def test_a_restarted_worker_adopts_the_living_child(scripted: Scripted, monkeypatch):
    run = scripted.tick_until(scripted.run(lingers=True), is_watched)
    pid = run.handle["pid"]
    # The worker that launched it is gone: its name is of a process that lives no more, and we are no parent.
    Run.objects.filter(pk=run.pk).update(owner=f"{run.handle['host']}/{_dead_pid()}/1.0")
    child = local._children.pop(pid)
    try:
        run = scripted.tick_until(run, lambda run: run.step >= 3)
        assert (run.handle["pid"], run.attempt) == (pid, 1)
        (run.folder / "go").touch()
        threading.Thread(target=child.wait, daemon=True).start()  # init would reap it
        run = scripted.tick_until(run)
        assert (run.status, run.attempt) == (Run.Status.FINISHED, 1)
    finally:
        child.wait(5)


def test_a_child_that_nobody_noted_is_found_by_its_folder(scripted: Scripted):
    run = scripted.tick_until(scripted.run(lingers=True), is_watched)
    pid = run.handle["pid"]
    Run.objects.filter(pk=run.pk).update(handle={})  # the worker died between the launch and the note
    run = scripted.tick_until(run, lambda run: "pid" in run.handle)
    assert run.handle["pid"] == pid
    (run.folder / "go").touch()
    assert scripted.tick_until(run).status == Run.Status.FINISHED


def test_a_stale_owner_publishes_nothing(scripted: Scripted):
    run = scripted.tick_until(scripted.run(lingers=True), lambda run: (run.folder / "artifact").exists())
    stale = claimed(run)
    assert claimed(run).fence == stale.fence + 1  # overtaken
    supervisor._publish(stale)
    assert Version.objects.filter(project=run.project).count() == 1
    assert not leases.update_held(stale, message="from the grave")
    (run.folder / "go").touch()
    run = scripted.tick_until(run)
    assert (run.status, run.message) == (Run.Status.FINISHED, "")
    assert Version.objects.filter(project=run.project).count() == 2


def test_a_full_disk_at_the_end_is_no_damage(scripted: Scripted, monkeypatch: pytest.MonkeyPatch):
    def full(source: str, target: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr("inference.services.versions.shutil.copy2", full)
    run = scripted.tick_until(scripted.run())
    assert (run.status, run.cause) == (Run.Status.FAILED, Run.Cause.DISK)
    assert "What the run made is whole, but" in run.message
    assert "No space left on device" in run.message
    assert Version.objects.filter(project=run.project).count() == 1


def test_events_taken_over_twice_are_stored_once(scripted: Scripted):
    run = scripted.tick_until(scripted.run())
    before = list(RunEvent.objects.filter(run=run).values_list("sequence", "name"))
    Run.objects.filter(pk=run.pk).update(status=Run.Status.RUNNING, events_offset=0)
    held = claimed(run)
    assert events.take_over_events(held)
    assert list(RunEvent.objects.filter(run=run).values_list("sequence", "name")) == before


def test_a_torn_line_is_left_until_it_is_whole_and_garbage_is_passed_over(scripted: Scripted):
    run = scripted.tick_until(scripted.run(steps=500), is_watched)
    local.cancel(run.handle)
    held = claimed(run)
    while events.take_over_events(held):
        pass
    count = run.events.count()
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "progress", "step": NaN}\n[1]\n{"event": "progress", "step": 9')
    assert events.take_over_events(held)
    assert run.events.count() == count
    with (run.folder / "events.jsonl").open("ab") as file:
        file.write(b"9}\n")
    assert events.take_over_events(held)
    assert (run.events.count(), held.step) == (count + 1, 99)


@pytest.mark.django_db(transaction=True)
def test_bells_from_many_workers_at_once_start_one_child(base_model, transactional_db, cast, monkeypatch):
    dpo = methods.METHODS["dpo"]
    monkeypatch.setitem(methods.METHODS, "dpo", replace(dpo, module="tests.training.recipe"))
    judged(cast, 24)
    scripted = Scripted(cast)
    run = scripted.run(steps=20, seconds=0.03)
    barrier = threading.Barrier(4)
    failures: list[Exception] = []

    def ring() -> None:
        try:
            barrier.wait()
            for _ in range(5):
                supervisor.tick(run.id)
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert failures == []
        run = scripted.tick_until(run)
        assert run.status == Run.Status.FINISHED, (run.cause, run.message)
        assert run.attempt == 1, "a start that another overtakes is none"
        assert run.events.filter(name="finished").count() == 1
        assert Version.objects.filter(project=run.project).count() == 2
    finally:
        scripted.kill_children()


def test_the_childs_environment_holds_no_secret(scripted: Scripted, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    monkeypatch.setenv("DATABASE_URL", os.environ["DATABASE_URL"])
    run = scripted.tick_until(scripted.run(steps=500), is_watched)
    entries = Path(f"/proc/{run.handle['pid']}/environ").read_bytes().split(b"\0")
    names = {entry.split(b"=")[0] for entry in entries if entry}
    assert b"HF_HUB_OFFLINE" in names
    assert not names & {b"SECRET_KEY", b"DATABASE_URL", b"BROKER_URL", b"ENGINE_API_KEY"}
    assert os.getsid(run.handle["pid"]) == run.handle["pid"]
    os.killpg(run.handle["pid"], signal.SIGKILL)


def _dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid
