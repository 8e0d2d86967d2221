"""Bells: each calls one service, may ring twice, and loses nothing when it is not heard."""

from __future__ import annotations

from celery import shared_task
from celery.signals import worker_process_shutdown, worker_shutdown

from training.launchers import local
from training.services import answering, policies, supervisor


@shared_task
def tick_runs() -> None:
    """One step for each active run."""
    supervisor.tick_all()


@shared_task
def tick_work() -> None:
    """One step for each evaluation whose answers Ratchet makes."""
    answering.tick_evaluations()


@shared_task
def tick_policies() -> None:
    """Start what is due."""
    policies.tick_policies()


@worker_process_shutdown.connect
@worker_shutdown.connect
def interrupt_children(**_: object) -> None:
    """A trainer that is told to stop has its child write a checkpoint and end; the next trainer resumes it.

    A trainer that is killed leaves its child running, and the next trainer adopts it.
    """
    local.interrupt_children()
