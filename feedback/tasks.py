"""Bells: each rings one service, and may ring twice."""

from __future__ import annotations

from celery import shared_task

from feedback.services import battles


@shared_task
def settle_battles() -> None:
    """Record votes that came before their answers had ended, where the web process could not."""
    battles.settle_battles()
