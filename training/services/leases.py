"""Who may tick a run: a lease in the row, and a fence that grows with each claim.

A claim is one conditional UPDATE. Whatever the holder writes later names the fence that it was given, so that
a holder which was overtaken (it slept, it was cut off) changes nothing and publishes nothing.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any
from uuid import UUID

import psutil
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from training.models import Run
from training.services import rundir


def claim_run(run_id: UUID) -> Run | None:
    """The run, leased to this process with a new fence and marked running; None when it is not ours to tick.

    A queued run of this machine needs this trainer's slot to be free. A running one is taken over when its
    lease lapsed or its owner is known to be gone, and, where its child is on another host, when that is
    silent too.
    """
    run = Run.objects.filter(pk=run_id, status__in=Run.ACTIVE).first()
    if run is None or _is_held_by_another(run):
        return None
    now = timezone.now()
    values: dict[str, Any] = {
        "status": Run.Status.RUNNING,
        "trainer": _slot(run),
        "owner": owner_name(),
        "fence": run.fence + 1,
        "lease_until": now + timedelta(seconds=settings.RUN_LEASE_SECONDS),
    }
    if run.started is None:
        values["started"] = now
    try:
        with transaction.atomic():
            claimed = Run.objects.filter(pk=run.pk, status=run.status, fence=run.fence).update(**values)
    except IntegrityError:
        return None  # this trainer's slot holds another run
    if not claimed:
        return None
    return Run.objects.select_related("project", "dataset").get(pk=run.pk)


def update_held(run: Run, **values: Any) -> bool:
    """Write to a claimed run. False, and nothing written, when it was claimed again since or is over."""
    count = Run.objects.filter(pk=run.pk, fence=run.fence, status=Run.Status.RUNNING).update(**values)
    if count:
        for name, value in values.items():
            setattr(run, name, value)
    return bool(count)


def owner_name() -> str:
    """host/pid/start of this process: enough to tell on the same host whether it still lives."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _slot(run: Run) -> str:
    """What the run holds alone while it runs: this trainer; in a cluster, which has a queue, nothing."""
    return settings.TRAINER if run.launcher == "local" else f"{run.launcher}/{run.id}"


def _is_held_by_another(run: Run) -> bool:
    if run.status == Run.Status.QUEUED or run.owner == owner_name():
        return False
    if run.lease_until is not None and run.lease_until > timezone.now() and not _is_gone(run.owner):
        return True
    host = run.handle.get("host", socket.gethostname())
    return bool(host != socket.gethostname()) and not rundir.is_silent(run)


def _is_gone(owner: str) -> bool:
    """True when the owner was a process of this host that lives no more."""
    host, _, rest = owner.partition("/")
    pid, _, started = rest.partition("/")
    if host != socket.gethostname():
        return False
    try:
        return bool(abs(psutil.Process(int(pid)).create_time() - float(started)) > 1)
    except psutil.NoSuchProcess:
        return True
