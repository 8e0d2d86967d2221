"""What clients send about keys and webhooks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from projects.bodies import StrictBody, Time

MAX_GRACE = 7 * 86_400  # seconds

Grace = Annotated[
    int, Field(ge=0, le=MAX_GRACE, description="Seconds for which the secret before is good as well.")
]


class KeyBody(StrictBody):
    """A new key, with scopes that the asking key has itself."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    scopes: Annotated[list[str], Field(min_length=1, max_length=10)]
    expires: Time | None = None


class RotateBody(StrictBody):
    grace_seconds: Grace = 86_400


class WebhookBody(StrictBody):
    """Where events go; without `events` all of them."""

    url: Annotated[str, Field(min_length=1, max_length=500)]
    events: Annotated[list[str], Field(max_length=20)] = []
    description: Annotated[str, Field(max_length=200)] = ""


class WebhookChange(StrictBody):
    """What is to change; the rest stays."""

    url: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    events: Annotated[list[str], Field(max_length=20)] | None = None
    description: Annotated[str, Field(max_length=200)] | None = None
    enabled: bool | None = None


class NothingBody(StrictBody):
    """An empty object."""
