"""Bells: each calls one service, may ring twice, and loses nothing when it is not heard."""

from __future__ import annotations

from celery import Task, shared_task
from celery.signals import worker_process_shutdown, worker_shutdown
from django.db import transaction

from training.launchers import local
from training.services import (
    answering,
    compilations,
    erasure,
    pipelines,
    policies,
    rollouts,
    scores,
    supervisor,
)


@shared_task
def tick_runs() -> None:
    """One step for each active run."""
    supervisor.tick_all()


@shared_task
def tick_work() -> None:
    """One step for each evaluation whose answers Ratchet makes, and the next stage of each pipeline."""
    if pipelines.tick_pipelines():
        tick_runs.apply_async(retry=False, expires=60)
    answering.tick_evaluations()


@shared_task
def import_scores() -> None:
    """Bring what reward models said of answers to where tasks are drawn."""
    scores.import_scores()


@shared_task
def tick_policies() -> None:
    """Start what is due."""
    policies.tick_policies()


@shared_task
def tick_rollouts() -> None:
    """Look at what serves for the first time: up, back, or on."""
    rollouts.tick_rollouts()


@shared_task
def tick_compilations() -> None:
    """Make the previews and datasets that wait for a worker."""
    compilations.tick_compilations()


@shared_task
def tick_erasures() -> None:
    """Erase who is to be erased, also where a worker died over it."""
    erasure.tick_erasures()


def ring(task: Task[[], None]) -> None:
    """Have a worker do it now rather than at the next beat, once what was written is committed.

    A broker that is away costs a line in the log and seconds of waiting for the beat, never the request.
    """
    transaction.on_commit(lambda: task.apply_async(retry=False, expires=60), robust=True)


@worker_process_shutdown.connect
@worker_shutdown.connect
def interrupt_children(**_: object) -> None:
    """A trainer that is told to stop has its child write a checkpoint and end; the next trainer resumes it.

    A trainer that is killed leaves its child running, and the next trainer adopts it.
    """
    local.interrupt_children()
