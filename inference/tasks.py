"""Bells: each rings one service, and may ring twice."""

from __future__ import annotations

from celery import shared_task

from inference.services import completions, reconciler


@shared_task
def reconcile() -> None:
    """Compare what the engines hold with what they should hold, and mend it."""
    reconciler.reconcile()


@shared_task
def reap_completions() -> None:
    """Close answers whose process died."""
    completions.reap_completions()
