"""Faults of machines on the way from judgements to what serves: each with the state that it must leave.

Whatever happens, nothing half made is registered and the champion is untouched: `unharmed` asks that after
each of them. What test_supervisor.py has already (killed, adopted, a damaged dataset) is not here again.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from inference.models import Deployment, Version
from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import Scripted, judged
from training.launchers import local
from training.models import Policy, Run
from training.services import rundir, supervisor
from training.services.policies import tick_policies
from training.services.runs import cancel_run, create_run

SMALL = {"batch_size": 4, "lora_r": 4, "lora_alpha": 8, "max_length": 256, "learning_rate": 1e-3}


@pytest.fixture
def unharmed(cast: Cast) -> Iterator[Callable[..., None]]:
    """Call it at the end with how many versions the run may have added."""
    before = list(Deployment.objects.values_list("id", flat=True))

    def check(made: int = 0) -> None:
        versions = Version.objects.filter(project=cast.project)
        assert versions.count() == 1 + made
        assert list(Deployment.objects.values_list("id", flat=True)) == before
        assert all(not version.folder.with_suffix(".partial").exists() for version in versions)

    yield check


# --- the child -------------------------------------------------------------------------------------------
def test_a_child_that_was_given_up_and_woke_leaves_and_says_nothing(
    scripted: Scripted, settings, monkeypatch, unharmed
):
    """Its host was cut off: nobody there can be told to kill it. It wakes when its successor works."""
    run = scripted.tick_until(
        scripted.run(steps=400, at={"2": "freeze"}), lambda run: (run.folder / "did-2").exists()
    )
    frozen = psutil.Process(run.handle["pid"])
    child = local._children.pop(frozen.pid)
    try:
        Run.objects.filter(pk=run.pk).update(handle={**run.handle, "host": "elsewhere"})
        settings.RUN_SILENCE_SECONDS = 0.5
        run = scripted.tick_until(run, lambda run: run.handle == {})
        settings.RUN_SILENCE_SECONDS = 60
        monkeypatch.setattr(local, "find", lambda job: None)  # as on the other host
        run = scripted.tick_until(run, lambda run: run.attempt == 2 and run.step >= 3)
        os.kill(frozen.pid, signal.SIGCONT)
        assert child.wait(30) == 76
    finally:
        child.kill()
    assert "overtaken" in (run.folder / "log.txt").read_text()
    run = scripted.tick_until(run, lambda run: run.step >= 10)
    assert not run.events.filter(name="failed").exists()
    assert run.events.filter(name="started").count() == 2
    unharmed()


@pytest.mark.model
@pytest.mark.slow
def test_a_child_without_memory_says_so_and_the_next_one_takes_half(
    tiny_model: Path, cast: Cast, settings, unharmed
):
    settings.TRAIN_DEVICE = "cpu"
    judged(cast, 40)
    run = create_run(project=cast.project, config={**SMALL, "epochs": 60}, actor=SYSTEM)
    ticking = Scripted(cast)
    ticking.made.append(run)
    try:
        run = ticking.tick_until(run, lambda run: run.step >= 1, seconds=120)
        # From now on the kernel gives it no page more than it has.
        held = psutil.Process(run.handle["pid"]).memory_info().vms
        resource.prlimit(run.handle["pid"], resource.RLIMIT_AS, (held, held))
        resource.prlimit(run.handle["pid"], resource.RLIMIT_DATA, (1, 1))
        run = ticking.tick_until(run, lambda run: run.handle == {}, seconds=120)
    finally:
        ticking.kill_children()
    failed = run.events.get(name="failed")
    assert failed.data["cause"] == "oom"
    assert "out of memory" in run.message
    assert (run.config["batch_size"], run.config["gradient_accumulation"]) == (2, 2)
    unharmed()


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_named(tiny_model: Path, cast: Cast, settings, unharmed):
    settings.TRAIN_DEVICE = "cpu"
    judged(cast, 40)
    run = create_run(project=cast.project, config={**SMALL, "save_steps": 2, "epochs": 4}, actor=SYSTEM)
    checkpoints = run.folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(checkpoints)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine mounts no small disk: " + mounted.stderr.decode())
    try:
        run = Scripted(cast).tick_until(run, seconds=120)
    finally:
        subprocess.run(["umount", "--lazy", str(checkpoints)], check=True)
    assert (run.status, run.cause, run.attempt) == ("failed", "disk", 1)
    assert "disk is full" in run.message
    unharmed()


@pytest.mark.model
@pytest.mark.slow
def test_a_child_killed_amid_a_checkpoint_goes_on_from_the_one_before(
    tiny_model: Path, cast: Cast, settings, unharmed
):
    settings.TRAIN_DEVICE = "cpu"
    judged(cast, 40)
    config = {**SMALL, "save_steps": 2, "max_steps": 14, "epochs": 100}
    run = create_run(project=cast.project, config=config, actor=SYSTEM)
    ticking = Scripted(cast)
    ticking.made.append(run)
    try:
        first = run.folder / "checkpoints" / "checkpoint-2" / "complete.json"
        run = ticking.tick_until(run, lambda run: first.exists(), seconds=120)
        local.cancel(run.handle)
        # What a kill in the middle of the next one leaves: files, and no word that all of them are there.
        torn = first.parent.with_name("checkpoint-999")
        shutil.copytree(first.parent, torn)
        (torn / "complete.json").unlink()
        (torn / "optimizer.pt").write_bytes(b"half")
        run = ticking.tick_until(run, seconds=240)
    finally:
        ticking.kill_children()
    assert (run.status, run.attempt, run.step) == ("finished", 2, 14)
    starts = [row.data["step"] for row in run.events.filter(name="started")]
    assert starts[0] == 0 and 2 <= starts[1] < 14
    unharmed(made=1)


# --- between the artifact and what serves ----------------------------------------------------------------
def test_a_child_killed_behind_its_artifact_has_made_it(scripted: Scripted, unharmed):
    run = scripted.tick_until(scripted.run(end="killed"))
    assert (run.status, run.attempt, run.cause) == ("finished", 1, "")
    assert run.version is not None
    unharmed(made=1)


@pytest.mark.parametrize("where", ["register_version", "tell_end"])
def test_a_trainer_that_dies_between_artifact_and_row_makes_one_version(
    scripted: Scripted, monkeypatch, unharmed, where: str
):
    real = getattr(supervisor, where)
    died: list[bool] = []

    def die_once(*given: Any, **named: Any) -> Any:
        made = real(*given, **named)
        if not died:
            died.append(True)
            raise KeyboardInterrupt("the trainer is killed here")
        return made

    monkeypatch.setattr(supervisor, where, die_once)
    run = scripted.run()
    with pytest.raises(KeyboardInterrupt):
        scripted.tick_until(run)
    run.refresh_from_db()
    assert (run.status, run.version) == ("running", None), "the row says nothing that is not so"
    run = scripted.tick_until(run)
    assert (run.status, run.attempt) == ("finished", 1)
    unharmed(made=1)


def test_a_trainer_that_dies_behind_the_row_leaves_the_champion(scripted: Scripted, monkeypatch, unharmed):
    """Between row and deployment: what serves is another decision, and nothing is made twice."""

    def die(run: Run) -> None:
        raise KeyboardInterrupt("the trainer is killed here")

    monkeypatch.setattr(rundir, "forget_checkpoints", die)
    run = scripted.run()
    with pytest.raises(KeyboardInterrupt):
        scripted.tick_until(run)
    run.refresh_from_db()
    assert run.status == "finished" and run.version is not None
    monkeypatch.undo()
    supervisor.tick_all()
    unharmed(made=1)


def test_the_same_bell_three_times_is_one_child(scripted: Scripted, unharmed):
    run = scripted.run(lingers=True)
    for _ in range(3):
        supervisor.tick(run.id)
    run.refresh_from_db()
    assert run.attempt == 1
    (run.folder / "go").touch()
    run = scripted.tick_until(run)
    assert run.events.filter(name="started").count() == 1
    for _ in range(3):
        supervisor.tick(run.id)
    unharmed(made=1)


# --- what a run needs ------------------------------------------------------------------------------------
def test_a_missing_base_is_said_before_a_child_starts(scripted: Scripted, base_model: Path, unharmed):
    run = scripted.run()
    shutil.rmtree(base_model)
    run = scripted.tick_until(run)
    assert (run.status, run.cause) == ("failed", "data")
    assert "make model" in run.message
    assert not (run.folder / "log.txt").exists()
    unharmed()


def test_a_beat_that_was_down_over_three_slots_starts_one_run(scripted: Scripted, unharmed):
    Policy.objects.create(project=scripted.cast.project, is_enabled=True, cron="0 * * * *")
    back = datetime(2026, 3, 2, 6, 10, tzinfo=UTC)  # it slept through 4, 5 and 6 o'clock
    started = [run for minute in range(3) for run in tick_policies(now=back + timedelta(minutes=minute))]
    assert [run.slot for run in started] == ["cron:2026-03-02T06:00:00+00:00"]
    cancel_run(run=started[0], actor=SYSTEM)
    assert tick_policies(now=back + timedelta(minutes=5)) == []
    unharmed()
