"""Runs as jobs of a real Slurm: one node of this machine, the same child, the same run directory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from projects.services import SYSTEM
from tests import slurm as system
from tests.training.conftest import Scripted
from training.launchers import slurm
from training.models import Run
from training.services.runs import cancel_run

MISSING = system.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install {' '.join(system.PACKAGES)}"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[system.Slurm]:
    made = system.Slurm()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def on_slurm(cluster: system.Slurm, scripted: Scripted, settings: Any) -> Iterator[Scripted]:
    settings.LAUNCHER = "slurm"
    settings.TRAIN_CPUS = settings.TRAIN_MEMORY_GB = 1
    settings.TRAIN_DEVICE = "cpu"
    yield scripted
    for run in scripted.made:
        run.refresh_from_db()
        if "job" in run.handle:
            slurm.cancel(run.handle)


def is_begun(run: Run) -> bool:
    return run.step >= 1


def child(run: Run) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        # srun and a shell have the same last words.
        if process.info["cmdline"] == [sys.executable, "-m", "tests.training.recipe", str(run.folder)]:
            return process
    raise AssertionError("the child does not live")


def test_a_run_becomes_a_version(on_slurm: Scripted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    run = on_slurm.tick_until(on_slurm.run(lingers=True), is_begun)
    names = set(child(run).environ())
    assert {"PATH", "HF_HUB_OFFLINE", "RUN_FENCE", "SLURM_JOB_ID"} <= names
    assert not names & {"SECRET_KEY", "DATABASE_URL", "BROKER_URL", "ENGINE_API_KEY", "VAR_DIR"}
    (run.folder / "go").touch()
    run = on_slurm.tick_until(run)
    assert (run.status, run.message, run.attempt, run.launcher) == ("finished", "", 1, "slurm")
    assert run.version is not None
    assert [row.name for row in run.events.all()] == ["started", *["progress"] * 3, "finished"]
    assert (run.folder / "log.txt").is_file(), "its output is where people look for it"


def test_a_killed_child_goes_on_from_its_checkpoint_in_another_job(on_slurm: Scripted):
    run = on_slurm.tick_until(on_slurm.run(at={"2": "kill"}), lambda run: "job" in run.handle)
    first = run.handle["job"]
    run = on_slurm.tick_until(run)
    assert (run.status, run.attempt) == ("finished", 2)
    assert run.handle["job"] != first
    assert [row.data["step"] for row in run.events.filter(name="started")] == [0, 1]


def test_a_cancelled_run_leaves_no_job_and_a_checkpoint(on_slurm: Scripted):
    run = on_slurm.tick_until(on_slurm.run(steps=500), is_begun)
    process = child(run)
    cancel_run(run=run, actor=SYSTEM)
    run = on_slurm.tick_until(run)
    assert (run.status, run.cause) == ("cancelled", "cancelled")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not slurm.poll(run.handle).is_alive
    assert (run.folder / "checkpoints").is_dir()


def test_what_an_operator_cancels_in_slurm_is_cancelled(on_slurm: Scripted):
    run = on_slurm.tick_until(on_slurm.run(steps=500), is_begun)
    subprocess.run(["scancel", run.handle["job"]], check=True, timeout=30)
    run = on_slurm.tick_until(run)
    assert (run.status, run.cause) == ("cancelled", "cancelled")
    assert run.message.startswith(f"Slurm says of job {run.handle['job']}: CANCELLED")


def test_what_slurm_will_not_take_fails_in_its_words(on_slurm: Scripted, settings: Any):
    settings.TRAIN_SLURM = {"partition": "nowhere"}
    run = on_slurm.tick_until(on_slurm.run())
    assert (run.status, run.cause) == ("failed", "internal")
    assert "nvalid partition" in run.message


def test_a_job_that_nobody_noted_is_found(on_slurm: Scripted):
    run = on_slurm.tick_until(on_slurm.run(lingers=True), is_begun)
    job = run.handle["job"]
    Run.objects.filter(pk=run.pk).update(handle={})  # the trainer died between sbatch and the note
    run = on_slurm.tick_until(run, lambda run: "job" in run.handle)
    assert run.handle["job"] == job
    (run.folder / "go").touch()
    assert on_slurm.tick_until(run).status == "finished"


def test_two_runs_wait_in_the_clusters_queue_and_not_in_ours(on_slurm: Scripted, settings: Any):
    settings.TRAIN_CPUS = 2  # all of the node
    first = on_slurm.tick_until(on_slurm.run(lingers=True), is_begun)
    second = on_slurm.tick_until(on_slurm.run(), lambda run: "Resources" in run.message)
    assert "waits in Slurm" in second.message
    cancel_run(run=second, actor=SYSTEM)
    assert on_slurm.tick_until(second).status == "cancelled"
    (first.folder / "go").touch()
    assert on_slurm.tick_until(first).status == "finished"


def test_a_controller_that_is_away_ends_nothing(
    on_slurm: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = on_slurm.tick_until(on_slurm.run(lingers=True), is_begun)
    monkeypatch.setenv("PATH", str(tmp_path))  # no scontrol answers
    run = on_slurm.tick_until(run, lambda run: "does not answer" in run.message)
    assert run.status == "running"
    monkeypatch.undo()
    (run.folder / "go").touch()
    run = on_slurm.tick_until(run)
    assert (run.status, run.message, run.attempt) == ("finished", "", 1)


def test_a_node_that_fails_is_named_and_the_run_goes_on(on_slurm: Scripted, cluster: system.Slurm):
    run = on_slurm.tick_until(on_slurm.run(steps=150), is_begun)
    cluster.kill_node()
    run = on_slurm.tick_until(run, lambda run: run.handle == {})
    assert f"node {system.NODE} failed" in run.message
    cluster.start_node()
    run = on_slurm.tick_until(run)
    assert (run.status, run.attempt) == ("finished", 2)
