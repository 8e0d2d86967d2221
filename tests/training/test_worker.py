"""A real Celery worker and a real training: the worker is killed, the broker emptied, and the run goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from config.celery import app
from projects.services import SYSTEM
from tests.cast import Cast, make_cast
from tests.processes import Process
from tests.training.conftest import judged, real_worker
from training.models import Run
from training.services.runs import cancel_run, create_run
from training.tasks import tick_runs

pytestmark = [pytest.mark.model, pytest.mark.slow]
SMALL = {
    "batch_size": 1,
    "learning_rate": 1e-3,
    "lora_r": 4,
    "lora_alpha": 8,
    "max_length": 256,
    "save_steps": 2,
}


@pytest.fixture
def kitchen(transactional_db: None, tiny_model: Path) -> Cast:
    cast = make_cast()
    judged(cast, 40)
    return cast


@pytest.fixture
def worker(kitchen: Cast) -> Iterator[Process]:
    with real_worker(queues="training") as process:
        yield process


def wait_for(run: Run, reached: Callable[[Run], bool], seconds: float = 120) -> Run:
    """Ring as beat does until `reached`."""
    deadline = time.monotonic() + seconds
    while True:
        tick_runs.apply_async(expires=6)
        run.refresh_from_db()
        if reached(run):
            return run
        assert time.monotonic() < deadline, (run.status, run.cause, run.message, run.step)
        assert run.is_active, (run.status, run.cause, run.message)
        time.sleep(0.3)


def test_a_killed_worker_an_emptied_broker_and_a_stopped_one_cost_nothing(kitchen: Cast, worker: Process):
    run = create_run(project=kitchen.project, config={**SMALL, "epochs": 12}, actor=SYSTEM)
    run = wait_for(run, lambda run: run.step >= 2)
    child = psutil.Process(run.handle["pid"])
    assert os.getsid(child.pid) == child.pid

    worker.kill()
    with app.connection() as connection:
        connection.default_channel.queue_purge("training")  # type: ignore[attr-defined]  # untyped in kombu
    assert child.is_running(), "the child outlives the worker that launched it"
    step = run.step
    worker.start()
    run = wait_for(run, lambda run: run.step > step)
    assert (run.handle["pid"], run.attempt) == (child.pid, 1), "the new worker adopted it"

    cancel_run(run=run, actor=SYSTEM)
    run = wait_for(run, lambda run: run.status == Run.Status.CANCELLED)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_is_told_to_stop_has_the_run_saved_and_the_next_one_goes_on(
    kitchen: Cast, worker: Process
):
    run = create_run(project=kitchen.project, config={**SMALL, "epochs": 3}, actor=SYSTEM)
    run = wait_for(run, lambda run: run.step >= 3)
    first = run.handle["pid"]
    worker.stop()
    worker.start()
    run = wait_for(run, lambda run: run.handle.get("pid") not in (None, first))
    assert run.attempt == 1
    assert run.events.filter(name="failed", data__cause="interrupted").count() == 1
    run = wait_for(run, lambda run: run.status == Run.Status.FINISHED)
    starts = [row.data["step"] for row in run.events.filter(name="started")]
    assert starts[0] == 0
    assert starts[1] >= 3, "it went on from the checkpoint that it wrote"
    assert run.version is not None
