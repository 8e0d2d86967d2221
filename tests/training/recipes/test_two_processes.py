"""Several devices: two processes on a CPU (gloo), started as the launcher would start them on two GPUs."""

from __future__ import annotations

import os
import subprocess

import pytest

from inference.artifact import verify
from tests.training.recipes.runs import build_run, events, finish, pairs
from training.launchers.commands import command
from training.launchers.protocol import Job

pytestmark = [pytest.mark.model, pytest.mark.slow]


def test_two_processes_train_one_adapter(tmp_path, base):
    folder = build_run(tmp_path / "r", base, heldout=pairs(20, seed=2), config={"batch_size": 4, "epochs": 2})
    # As for two GPUs; run.json says cpu, so they meet over gloo.
    job = Job(id="3", name="demo/3", module="training.recipes.dpo", folder=folder, fence="", processes=2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(job), env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [event["event"] for event in events(folder) if event["event"] != "checkpoint"]
    # 48 pairs, 4 in each of two processes: six steps an epoch, told once.
    assert told == ["started", *["progress"] * 12, "finished"]
    manifest = verify(folder / "artifact", servable=True)
    assert manifest["metrics"]["heldout_accuracy"] > 0.9
    assert manifest["compute"]["processes"] == 2
    # Each pair is read once an epoch by one of the two, and counted for both.
    one = build_run(tmp_path / "one", base, config={"epochs": 2})
    alone = finish(one, "dpo")["compute"]["tokens"]
    assert manifest["compute"]["tokens"]["train"] == alone["train"]
    assert manifest["compute"]["tokens"]["reference"] == alone["reference"]
