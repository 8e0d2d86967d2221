"""What the tests of learning share: judged prompts, a scripted recipe, ticking until something happens."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from feedback.services.judge import Judge
from feedback.services.record import record_correction, record_preference
from inference.artifact import write_manifest
from inference.models import Completion, Version
from inference.services import deployments
from projects.services import Actor
from tests.cast import Cast
from tests.processes import Process, worker_process
from training.models import Run
from training.services import methods, runs, supervisor


def vote(cast: Cast, better: Completion, worse: Completion, *, subject: str = "", tie: bool = False) -> Any:
    """A preference by a program's end user; the better one is shown first."""
    row, _ = record_preference(
        project=better.project,
        judge=Judge(api_key=cast.api_key, subject=subject),
        candidates=[better.id, worse.id],
        ranks=[1, 1] if tie else [1, 2],
        source="api",
        is_shown=True,
    )
    return row


def judged(cast: Cast, count: int, *, start: int = 0) -> list[Any]:
    """So many training prompts with two answers and one preference each."""
    rows = []
    for number in range(start, start + count):
        _, (good, bad) = cast.answered_prompt(
            f"Question {number}?",
            [f"Short answer {number}.", f"A longer answer to {number}, with more words."],
        )
        rows.append(vote(cast, good, bad))
    return rows


def corrected(cast: Cast, count: int, *, start: int = 1000) -> list[Any]:
    """So many training prompts with an answer that somebody wrote better: a demonstration and a pair each."""
    rows = []
    for number in range(start, start + count):
        _, [bad] = cast.answered_prompt(f"Question {number}?", [f"A long and winding answer to {number}."])
        row, _ = record_correction(
            project=bad.project,
            judge=Judge(api_key=cast.api_key),
            completion_id=bad.id,
            text=f"Short answer {number}.",
            source="api",
            is_shown=True,
        )
        rows.append(row)
    return rows


@contextmanager
def real_worker(**options: str) -> Iterator[Process]:
    """A Celery worker; what it launched is killed with it."""
    process = worker_process(**options)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        for run in Run.objects.filter(handle__has_key="pid"):
            if psutil.pid_exists(run.handle["pid"]):
                psutil.Process(run.handle["pid"]).kill()


def second_version(cast: Cast) -> Version:
    """v2 as a row, for where no files are needed."""
    return Version.objects.create(
        project=cast.project, number=2, kind=Version.Kind.ADAPTER, path="versions/2", digest="sha256:2"
    )


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """What engines were asked to load: here they hold everything. test_promotion.py asks a real one."""
    asked: list[Version] = []

    @contextmanager
    def brought_up(version: Version) -> Iterator[float]:
        asked.append(version)
        yield 1.0

    monkeypatch.setattr(deployments, "brought_up", brought_up)
    monkeypatch.setattr(deployments, "is_held", lambda version: True)
    return asked


@pytest.fixture
def base_model(settings: Any, tmp_path: Path) -> Path:
    """A manifest as MODEL_DIR's, where no weights are needed. Before `cast`, whose project begins with it."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest(folder, kind="base")
    settings.MODEL_DIR = folder
    return folder


class Scripted:
    """Runs whose child is tests/training/recipe.py."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.made: list[Run] = []

    def run(self, *, config: dict[str, Any] | None = None, **script: Any) -> Run:
        """A queued run; its child will do what the script says."""
        run = runs.create_run(project=self.cast.project, actor=Actor(user=self.cast.ada), config=config)
        run.folder.mkdir(parents=True)
        (run.folder / "script.json").write_text(json.dumps({"steps": 3, **script}))
        self.made.append(run)
        return run

    def tick_until(self, run: Run, reached: Callable[[Run], bool] | None = None, seconds: float = 60) -> Run:
        """Tick until `reached`, by default until the run is over."""
        deadline = time.monotonic() + seconds
        while True:
            supervisor.tick(run.id)
            run.refresh_from_db()
            if reached(run) if reached else not run.is_active:
                return run
            assert run.is_active and time.monotonic() < deadline, (
                run.status,
                run.cause,
                run.message,
                run.step,
            )
            time.sleep(0.02)

    def kill_children(self) -> None:
        for run in self.made:
            run.refresh_from_db()
            pid = run.handle.get("pid")
            if pid:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@pytest.fixture
def scripted(base_model: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    dpo = methods.METHODS["dpo"]
    monkeypatch.setitem(methods.METHODS, "dpo", replace(dpo, module="tests.training.recipe"))
    judged(cast, 24)
    made = Scripted(cast)
    yield made
    made.kill_children()
