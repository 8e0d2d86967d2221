"""A whole pipeline with nothing scripted: a real worker, TRL's trainers, a tiny model, rung as beat rings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.artifact import verify
from tests.cast import Cast, error_of, make_cast
from tests.processes import Process
from tests.training.conftest import corrected, real_worker
from training.models import Pipeline
from training.tasks import tick_runs, tick_work

pytestmark = [pytest.mark.model, pytest.mark.slow]
SMALL: dict[str, Any] = {"batch_size": 4, "max_length": 256, "learning_rate": 2e-3}
ROLLOUT = {**SMALL, "gradient_accumulation": 1, "max_new_tokens": 8, "batch_size": 8}


@pytest.fixture
def kitchen(transactional_db: None, tiny_model: Path) -> Cast:
    cast = make_cast()
    corrected(cast, 32)
    return cast


@pytest.fixture
def worker(kitchen: Cast) -> Iterator[Process]:
    with real_worker() as process:
        yield process


def wait_for(pipeline: Pipeline, seconds: float = 240) -> Pipeline:
    """Ring as beat does until it is over."""
    deadline = time.monotonic() + seconds
    while pipeline.status == Pipeline.Status.RUNNING:
        assert time.monotonic() < deadline, pipeline.message
        tick_runs.apply_async(expires=6)
        tick_work.apply_async(expires=15)
        time.sleep(0.5)
        pipeline.refresh_from_db()
    return pipeline


def test_imitation_then_a_reward_model_then_a_policy_against_it(kitchen: Cast, worker: Process):
    configs = {"sft": {**SMALL, "epochs": 1}, "reward": SMALL, "ppo": ROLLOUT}
    body = {"name": "sft-reward-ppo", "configs": configs}
    begun = kitchen.post("pipelines", body, key=kitchen.manage_key)
    assert begun.status_code == 201, error_of(begun)
    pipeline = wait_for(Pipeline.objects.get())
    assert pipeline.status == Pipeline.Status.FINISHED, pipeline.message
    imitation, judge, policy = pipeline.runs.order_by("stage")
    assert [run.status for run in (imitation, judge, policy)] == ["finished"] * 3
    assert (policy.start, policy.reward) == (imitation.version, judge.version)
    assert policy.version is not None and policy.version.kind == "adapter"
    assert imitation.version is not None and judge.version is not None
    manifest = verify(policy.version.folder)
    assert (manifest["start"], manifest["reward"]) == (imitation.version.digest, judge.version.digest)
