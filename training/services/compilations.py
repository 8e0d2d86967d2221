"""Previews and compilations too large for a request: a row that a worker works off, with a way out.

So are runs and pipelines that begin with one (beginnings.py).

The worker reads in one long transaction (a cursor on the server needs it), so what it says of its progress
would not be seen before its end. A thread with a connection of its own says it once a second, renews the
lease, and hears of a cancellation.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.utils import timezone

from feedback.models import Correction, Preference, Rating
from projects.errors import Conflict, Problem
from projects.models import Project
from projects.services import Actor
from training.models import Compilation, Dataset, Erasure, Pipeline, Run
from training.services import beginnings
from training.services.compiler import (
    ErasedMeanwhile,
    Preview,
    check_cutoff,
    check_format,
    check_nobody_was_erased,
    compile_dataset,
    preview_dataset,
)
from training.services.data.rows import Stopped, Watch
from training.services.filters import parse_filters

LEASE = timedelta(seconds=60)
KEPT = timedelta(days=1)
EVERY = 1.0  # seconds between two words about the progress


class CompilationOver(Conflict):
    code = "compilation_over"


def is_large(project: Project) -> bool:
    """Whether its judgements are too many to be read while a request waits."""
    return judgements_of(project) > int(settings.COMPILE_IN_REQUEST)


def judgements_of(project: Project) -> int:
    return sum(model.objects.filter(project=project).count() for model in (Preference, Rating, Correction))


def request_compilation(
    *,
    project: Project,
    kind: str,
    format: str,  # noqa: A002 - the word of the API and of the model
    filters: dict[str, Any] | None,
    cutoff: datetime | None,
    actor: Actor,
    form: list[tuple[str, list[str]]] | None = None,
) -> Compilation:
    """Queue it as of now, or of the cut-off. Ring the bell after it. Raises Invalid for a wrong spec."""
    check_format(format)
    chosen, moment = parse_filters(filters, format), check_cutoff(cutoff)
    return Compilation.objects.create(
        project=project,
        kind=kind,
        format=format,
        filters=chosen.to_json(),
        cutoff=moment,
        form=form or [],
        total=judgements_of(project),
        user=actor.user,
        api_key=actor.api_key,
    )


def begin(*, project: Project, kind: str, wanted: dict[str, Any], actor: Actor) -> Run | Compilation:
    """Begin a run, a pipeline or a retraining at once; a row for a worker where there is much to read first.

    Ring the bell of what comes back. `wanted` is beginnings.py's. Raises what its service does; where a
    worker begins it only what is wrong whatever the judgements are, and the rest is the row's message.
    """
    format_, passes = beginnings.check(project, kind, wanted)
    is_compiled = wanted.get("dataset") is None and format_ in Dataset.Format.values
    if not is_compiled or not is_large(project):
        return beginnings.begin(project, kind, wanted, actor=actor)
    return Compilation.objects.create(
        project=project,
        kind=kind,
        format=format_,
        wanted=wanted,
        cutoff=timezone.now(),
        total=judgements_of(project) * passes,
        user=actor.user,
        api_key=actor.api_key,
    )


def cancel_compilation(compilation: Compilation) -> Compilation:
    """At once while it waits, else within a second or two. Raises CompilationOver."""
    rows = Compilation.objects.filter(pk=compilation.pk)
    waiting = rows.filter(status=Compilation.Status.WAITING).update(
        status=Compilation.Status.CANCELLED, finished=timezone.now()
    )
    if not waiting and not rows.filter(status=Compilation.Status.RUNNING).update(cancel_requested=True):
        compilation.refresh_from_db()
        raise CompilationOver(f"It is over: {compilation.get_status_display()}.")
    compilation.refresh_from_db()
    return compilation


def tick_compilations() -> None:
    """Work off what waits, and what a worker died over; the oldest first. Old ones are forgotten.

    One at a time: a worker has few places, and engines and webhooks must not wait behind large readings.
    While a person is being erased none begins, since it would have to be thrown away.
    """
    now = timezone.now()
    Compilation.objects.filter(finished__lt=now - KEPT).delete()
    at_work = Compilation.objects.filter(status=Compilation.Status.RUNNING, lease_until__gt=now).exists()
    if at_work or Erasure.objects.filter(status__in=Erasure.ACTIVE).exists():
        return
    for id_ in (
        Compilation.objects.filter(status__in=Compilation.ACTIVE)
        .order_by("created")
        .values_list("pk", flat=True)
    ):
        run_compilation(id_)


def run_compilation(id_: UUID) -> Compilation | None:
    """All of it; None where another worker is at it, or it is over. A refusal is written down, not raised."""
    now = timezone.now()
    free = Compilation.objects.filter(pk=id_, status=Compilation.Status.WAITING) | Compilation.objects.filter(
        pk=id_, status=Compilation.Status.RUNNING, lease_until__lt=now
    )
    if not free.update(status=Compilation.Status.RUNNING, lease_until=now + LEASE, started=now, read=0):
        return None
    compilation = Compilation.objects.select_related("project", "user", "api_key").get(pk=id_)
    teller = _Teller(compilation.pk)
    teller.start()
    try:
        done = _work(compilation, teller.watch)
    except Stopped:
        done = {"status": Compilation.Status.CANCELLED}
    except Problem as problem:
        done = {"status": Compilation.Status.FAILED, "message": problem.message}
    except BaseException:
        Compilation.objects.filter(pk=id_).update(lease_until=timezone.now())  # the next bell begins anew
        raise
    finally:
        teller.stop()
    _write_down(compilation, done)
    return Compilation.objects.filter(pk=id_).first()


def _write_down(compilation: Compilation, done: dict[str, Any]) -> None:
    """How it ended. A preview that may quote somebody who was erased meanwhile is not shown."""
    rows = Compilation.objects.filter(pk=compilation.pk)
    rows.update(**done, finished=timezone.now(), lease_until=None)
    if "result" in done and compilation.started is not None:
        try:
            check_nobody_was_erased(compilation.project, compilation.started)
        except ErasedMeanwhile as erased:
            rows.update(status=Compilation.Status.FAILED, message=erased.message, result={})


def _work(compilation: Compilation, watch: Watch) -> dict[str, Any]:
    actor = Actor(user=compilation.user, api_key=compilation.api_key)
    if compilation.kind in Compilation.BEGINNINGS:
        if compilation.run is None:  # else a worker died behind it
            Pipeline.objects.filter(pk=compilation.pk).delete()  # and this one before its first run
            how: dict[str, Any] = {"actor": actor, "id_": compilation.pk, "watch": watch}
            beginnings.begin(compilation.project, compilation.kind, compilation.wanted, **how)
        return {"status": Compilation.Status.DONE}
    spec: dict[str, Any] = {
        "project": compilation.project,
        "format": compilation.format,
        "filters": compilation.filters,
        "cutoff": compilation.cutoff,
        "watch": watch,
    }
    if compilation.kind == Compilation.Kind.PREVIEW:
        return {"status": Compilation.Status.DONE, "result": preview_json(preview_dataset(**spec))}
    return {"status": Compilation.Status.DONE, "dataset": compile_dataset(**spec, actor=actor)}


def preview_json(preview: Preview) -> dict[str, Any]:
    """As the row keeps it: the texts of its examples are in the database as it is."""
    return {**vars(preview), "cutoff": preview.cutoff.isoformat()}


def preview_of(compilation: Compilation) -> Preview:
    return Preview(**{**compilation.result, "cutoff": compilation.cutoff})


class _Teller(threading.Thread):
    """Says once a second how far it is, and holds the lease, until told to stop."""

    def __init__(self, id_: UUID) -> None:
        super().__init__(name=f"compilation {id_}", daemon=True)
        self._id = id_
        self._read = self._before = 0  # in this pass over the judgements, and in those before it
        self._is_over = threading.Event()
        self._is_cancelled = threading.Event()

    def watch(self, read: int) -> None:
        """Called by the reader every so often. Raises Stopped when it was called off."""
        if read < self._read:
            self._before += self._read
        self._read = read
        if self._is_cancelled.is_set():
            raise Stopped

    def run(self) -> None:
        try:
            while not self._is_over.wait(EVERY):
                self._tell()
        finally:
            connection.close()

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def _tell(self) -> None:
        rows = Compilation.objects.filter(pk=self._id)
        rows.update(read=self._before + self._read, lease_until=timezone.now() + LEASE)
        if rows.filter(cancel_requested=True).exists():
            self._is_cancelled.set()
