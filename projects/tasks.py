"""Bells: each calls one service, and may ring twice."""

from __future__ import annotations

from celery import shared_task

from projects import idempotency, limits
from projects.services import delivery


@shared_task
def deliver_webhooks() -> None:
    """Send what is due."""
    delivery.deliver_due()


@shared_task
def forget_old() -> None:
    """Delete what nobody will ask for again."""
    delivery.forget_deliveries()
    idempotency.forget_requests()
    limits.forget_windows()
