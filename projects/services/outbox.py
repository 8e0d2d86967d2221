"""The outbox: events for other systems, written in the transaction of what they tell of.

    with transaction.atomic():
        ...  # what happened
        record_event(project=project, name="run.finished", data={"run": 7, ...})

A row says that an event must reach an endpoint. A worker sends it later (projects/services/delivery.py), so
what happened and the word of it are committed both or neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.utils import timezone

from projects.ids import uuid7
from projects.models import Project, WebhookDelivery

# Name -> what happened. `data` always has ids by which the API gives the rest.
EVENTS = {
    "feedback.recorded": "A judgement was recorded: its id, kind, completion_ids, supersedes.",
    "run.finished": "A run ended: its number, status, cause, and the version that it made.",
    "evaluation.decided": "An evaluation has a verdict: its number, candidate, champion, verdict, numbers.",
    "deployment.promoted": "A version began to serve, whole or as a canary: number, version, share, reason.",
    "deployment.rolled_back": "The version before serves again: number, version, reason.",
    "rater.quarantined": "A rater's labels are left out of new datasets: rater, reason.",
}


def record_event(*, project: Project, name: str, data: dict[str, Any]) -> None:
    """Put one event in the outbox of each endpoint that wants it. Costs nothing where nobody listens.

    Call it inside the transaction of what happened. `data` is JSON of ids and states: what people wrote, and
    who they are, is asked of the API by whoever may know it.
    """
    record_events(project=project, name=name, data=[data])


def record_events(*, project: Project, name: str, data: Iterable[dict[str, Any]]) -> None:
    """Several events of one kind, in order, with the same few queries."""
    if name not in EVENTS:
        raise ValueError(f"unknown event {name}; there are: {', '.join(EVENTS)}")
    if not project.has_webhooks:
        return
    endpoints = [one for one in project.webhooks.filter(removed=None, disabled=None) if one.wants(name)]
    now = timezone.now()
    rows = [
        WebhookDelivery(
            endpoint=endpoint, event_id=event_id, event=name, payload=payload, due=now, created=now
        )
        for event_id, payload in ((uuid7(), _payload(project, name, now, one)) for one in data)
        for endpoint in endpoints
    ]
    WebhookDelivery.objects.bulk_create(rows)


def _payload(project: Project, name: str, now: datetime, data: dict[str, Any]) -> str:
    moment = now.astimezone(UTC).isoformat().replace("+00:00", "Z")
    body = {"type": name, "timestamp": moment, "data": {"project": project.slug, **data}}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=str)
