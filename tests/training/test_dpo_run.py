"""A DPO run on the tiny model, from judgements to a registered version, through the supervisor."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from projects.services import SYSTEM
from tests.cast import Cast
from tests.training.conftest import judged
from training.models import Run
from training.services import supervisor
from training.services.runs import create_run

pytestmark = pytest.mark.model


def test_judgements_become_an_adapter(tiny_model: Path, cast: Cast):
    judged(cast, 30)
    run = create_run(
        project=cast.project,
        config={"batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "lora_alpha": 8, "max_length": 256},
        actor=SYSTEM,
    )
    deadline = time.monotonic() + 120
    while run.is_active:
        assert time.monotonic() < deadline, run.message
        supervisor.tick(run.id)
        run.refresh_from_db()
        time.sleep(0.2)

    assert (run.status, run.message) == (Run.Status.FINISHED, "")
    assert run.step == run.total_steps == len(run.events.filter(name="progress")) > 0
    assert 0 <= run.metrics["heldout_accuracy"] <= 1
    assert run.metrics["loss"] > 0
    assert run.compute["tokens"]["train"] > 0
    assert run.compute["pf_days"] > 0
    assert run.version is not None
    manifest = run.version.manifest
    assert manifest["dataset"] == run.dataset.digest
    assert manifest["base"] == cast.v1.digest
    assert (run.version.folder / "adapter_model.safetensors").is_file()
