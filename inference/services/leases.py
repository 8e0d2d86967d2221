"""Leases: one holder at a time for a duty, such as loading and unloading versions."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.db import IntegrityError, transaction
from django.utils import timezone

from inference.models import Lease
from projects.offload import lightly_committed


def acquire_lease(*, name: str, seconds: float) -> uuid.UUID | None:
    """A token when the lease was free or had lapsed, else None."""
    holder, now = uuid.uuid4(), timezone.now()
    until = now + timedelta(seconds=seconds)
    if Lease.objects.filter(name=name, until__lt=now).update(holder=holder, until=until):
        return holder
    if Lease.objects.filter(name=name).exists():
        return None
    try:
        with transaction.atomic():
            Lease.objects.create(name=name, holder=holder, until=until)
    except IntegrityError:
        return None
    return holder


def renew_lease(*, name: str, holder: uuid.UUID, seconds: float) -> bool:
    """False when the lease lapsed and another took it."""
    until = timezone.now() + timedelta(seconds=seconds)
    return bool(Lease.objects.filter(name=name, holder=holder).update(until=until))


def release_lease(*, name: str, holder: uuid.UUID) -> None:
    """Free at once. Does nothing when another took it."""
    with lightly_committed():  # who deploys waits for this; a lease that came back would lapse
        Lease.objects.filter(name=name, holder=holder).delete()
