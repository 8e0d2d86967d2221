"""What the tests of learning share: judged prompts, a scripted recipe, ticking until something happens."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from feedback.services.judge import Judge
from feedback.services.record import record_preference
from inference.artifact import write_manifest
from inference.models import Completion, Version
from inference.services.versions import register_version
from projects.services import Actor
from tests.cast import Cast
from training.models import Run
from training.services import methods, runs, supervisor

BASE_DIGEST = "name:tiny"


def vote(cast: Cast, better: Completion, worse: Completion, *, subject: str = "", tie: bool = False) -> Any:
    """A preference by a program's end user; the better one is shown first."""
    row, _ = record_preference(
        project=better.project,
        judge=Judge(api_key=cast.api_key, subject=subject),
        candidates=[better.id, worse.id],
        ranks=[1, 1] if tie else [1, 2],
        source="api",
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


def adapter(cast: Cast, folder: Path, *, number: int = 0, **facts: Any) -> Version:
    """A registered adapter of the kitchen, with files of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": number}))
    (folder / "adapter_model.safetensors").write_bytes(bytes([number]) * 64)
    write_manifest(folder, kind="adapter", **facts)
    return register_version(project=cast.project, kind=Version.Kind.ADAPTER, artifact=folder)


@pytest.fixture
def base_model() -> None:
    """A manifest in MODEL_DIR, where no weights are needed."""
    folder = Path(settings.MODEL_DIR)
    if not (folder / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        write_manifest(folder, kind="base")


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

    def tick_until(self, run: Run, reached: Callable[[Run], bool] | None = None, seconds: float = 15) -> Run:
        """Tick until `reached`, by default until the run is over."""
        deadline = time.monotonic() + seconds
        while True:
            supervisor.tick(run.id)
            run.refresh_from_db()
            if reached(run) if reached else not run.is_active:
                return run
            assert time.monotonic() < deadline, (run.status, run.cause, run.message, run.step)
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
def scripted(
    cast: Cast, base_model: None, monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> Iterator[Scripted]:
    dpo = methods.METHODS["dpo"]
    monkeypatch.setitem(methods.METHODS, "dpo", replace(dpo, module="tests.training.recipe"))
    judged(cast, 24)
    made = Scripted(cast)
    yield made
    made.kill_children()
