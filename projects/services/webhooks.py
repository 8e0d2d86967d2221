"""Endpoints for events: made, given another secret, removed; and deliveries that are sent again."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from django.db import transaction
from django.utils import timezone

from projects.errors import Conflict, Invalid
from projects.models import Project, WebhookDelivery, WebhookEndpoint
from projects.services import Actor, record_audit
from projects.services.addresses import refuse_private
from projects.services.outbox import EVENTS

MAX_ENDPOINTS = 20  # a project
ROTATION_GRACE = timedelta(hours=24)


@transaction.atomic
def create_webhook(
    *, project: Project, url: str, events: Sequence[str] = (), description: str = "", actor: Actor
) -> WebhookEndpoint:
    """A new endpoint; `secret` on it is what its receiver checks signatures with.

    Raises Invalid for a URL that is none or names a private address, and for an unknown event.
    """
    check_webhook(url=url, events=events)
    # The row of the project is the lock: the flag below must say what the endpoints say.
    Project.objects.select_for_update().get(pk=project.pk)
    if project.webhooks.filter(removed=None).count() >= MAX_ENDPOINTS:
        raise Conflict(
            f"A project has at most {MAX_ENDPOINTS} endpoints. Remove one.", code="too_many_webhooks"
        )
    endpoint = WebhookEndpoint.objects.create(
        project=project,
        url=url,
        description=description,
        events=sorted(set(events)),
        secret=_new_secret(),
    )
    _note_listening(project)
    record_audit(
        project=project,
        actor=actor,
        action="webhook.created",
        subject=f"webhook:{endpoint.pk}",
        detail={"url": url},
    )
    return endpoint


@transaction.atomic
def change_webhook(
    *,
    endpoint: WebhookEndpoint,
    url: str | None = None,
    events: Sequence[str] | None = None,
    description: str | None = None,
    enabled: bool | None = None,
    actor: Actor,
) -> WebhookEndpoint:
    """Change what is named. What waits goes to the new address, under the same secret.

    Raises Invalid as `create_webhook` does.
    """
    check_webhook(url=endpoint.url if url is None else url, events=events or ())
    Project.objects.select_for_update().get(pk=endpoint.project_id)
    if url is not None:
        endpoint.url = url
    if events is not None:
        endpoint.events = sorted(set(events))
    if description is not None:
        endpoint.description = description
    if enabled is not None:
        endpoint.disabled = None if enabled else endpoint.disabled or timezone.now()
    endpoint.save(update_fields=["url", "events", "description", "disabled"])
    _note_listening(endpoint.project)
    record_audit(
        project=endpoint.project,
        actor=actor,
        action="webhook.changed",
        subject=f"webhook:{endpoint.pk}",
        detail={"url": endpoint.url, "events": endpoint.events, "enabled": endpoint.is_enabled},
    )
    return endpoint


def check_webhook(*, url: str, events: Sequence[str]) -> None:
    """Raises Invalid naming the field at fault."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or len(url) > 500 or any(ord(character) <= 32 or ord(character) > 126 for character in url):
        raise Invalid("url must be an address such as https://example.com/hook.", param="url")
    if parts.username or parts.password or parts.fragment:
        raise Invalid("url may hold no user name, password or fragment.", param="url")
    refuse_private(str(parts.hostname))
    unknown = sorted(set(events) - EVENTS.keys())
    if unknown:
        raise Invalid(f"Unknown event {unknown[0][:80]!r}. There are: {', '.join(EVENTS)}.", param="events")


@transaction.atomic
def rotate_webhook(
    *, endpoint: WebhookEndpoint, actor: Actor, grace: timedelta = ROTATION_GRACE
) -> WebhookEndpoint:
    """A new secret. For `grace` every delivery carries both signatures: time to change over."""
    endpoint.previous_secret, endpoint.secret = endpoint.secret, _new_secret()
    endpoint.previous_until = timezone.now() + grace
    endpoint.save(update_fields=["previous_secret", "secret", "previous_until"])
    record_audit(
        project=endpoint.project, actor=actor, action="webhook.rotated", subject=f"webhook:{endpoint.pk}"
    )
    return endpoint


@transaction.atomic
def remove_webhook(*, endpoint: WebhookEndpoint, actor: Actor) -> bool:
    """No more events go there; what still waits becomes a dead letter. True when this call removed it."""
    if not WebhookEndpoint.objects.filter(pk=endpoint.pk, removed=None).update(removed=timezone.now()):
        return False
    endpoint.deliveries.filter(state=WebhookDelivery.State.PENDING).update(
        state=WebhookDelivery.State.DEAD, error="The endpoint was removed."
    )
    _note_listening(endpoint.project)
    record_audit(
        project=endpoint.project,
        actor=actor,
        action="webhook.removed",
        subject=f"webhook:{endpoint.pk}",
        detail={"url": endpoint.url},
    )
    return True


def send_again(*, delivery: WebhookDelivery, actor: Actor) -> bool:
    """Try a dead letter, or a delivered one, anew from the first attempt. False while it waits anyway."""
    if delivery.endpoint.removed is not None:
        raise Conflict("Its endpoint was removed. Make one for this address again.", code="webhook_removed")
    sent = (
        WebhookDelivery.objects.filter(pk=delivery.pk)
        .exclude(state=WebhookDelivery.State.PENDING)
        .update(state=WebhookDelivery.State.PENDING, attempts=0, due=timezone.now(), error="")
    )
    if sent:
        delivery.refresh_from_db()
        record_audit(
            project=delivery.endpoint.project,
            actor=actor,
            action="webhook.sent_again",
            subject=f"delivery:{delivery.pk}",
        )
    return bool(sent)


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _note_listening(project: Project) -> None:
    project.has_webhooks = project.webhooks.filter(removed=None, disabled=None).exists()
    Project.objects.filter(pk=project.pk).update(has_webhooks=project.has_webhooks)
