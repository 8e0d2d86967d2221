"""A run in two processes, as on two GPUs: one child for the supervisor, whatever stands below it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import Scripted, judged
from training.models import Run
from training.services.runs import cancel_run, create_run

pytestmark = [pytest.mark.model, pytest.mark.slow]
SMALL = {"batch_size": 2, "lora_r": 4, "lora_alpha": 8, "max_length": 256, "epochs": 100}


def test_two_processes_are_found_and_cancelled_as_one(tiny_model: Path, cast: Cast, settings: Any):
    settings.TRAIN_PROCESSES = 2
    settings.TRAIN_DEVICE = "cpu"
    settings.TRAIN_THREADS = 1
    judged(cast, 40)
    run = create_run(project=cast.project, config=SMALL, actor=SYSTEM)
    assert run.total_steps == 100 * -(-run.dataset.rows // 4), "two processes see four rows a step"
    ticking = Scripted(cast)
    ticking.made.append(run)
    try:
        run = ticking.tick_until(run, lambda run: run.step >= 1, seconds=240)
        pid = run.handle["pid"]
        below = psutil.Process(pid).children(recursive=True)
        assert sum("training.recipes.dpo" in " ".join(process.cmdline()) for process in below) == 2
        Run.objects.filter(pk=run.pk).update(handle={})  # the trainer died before it noted it
        run = ticking.tick_until(run, lambda run: "pid" in run.handle)
        assert run.handle["pid"] == pid
        cancel_run(run=run, actor=SYSTEM)
        run = ticking.tick_until(run, seconds=120)
    finally:
        ticking.kill_children()
    assert (run.status, run.cause) == ("cancelled", "cancelled")
    assert list((run.folder / "checkpoints").glob("*/complete.json")), "it saved before it went"
    deadline = time.monotonic() + 30
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below):
        assert time.monotonic() < deadline
        time.sleep(0.1)
