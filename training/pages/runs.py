"""Runs and datasets: what was trained on what, how far it is, and what went wrong."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from inference.models import Version
from projects.access import may, project_for
from projects.errors import NotFound, Problem
from projects.models import Membership
from projects.numbers import read_whole
from projects.offload import in_database
from training.models import Dataset, Pipeline, Run, RunEvent
from training.pages.actions import choices_for, config_of, dataset_numbered
from training.pages.comparing import PLOTS, numbers_of
from training.services.advice import suggest_method
from training.services.alarms import alarms_of
from training.services.foretold import Foretold, foretell_run
from training.services.rundir import log_tail

LOOK_AGAIN_SECONDS = 1.0
SIGN_OF_LIFE_SECONDS = 15.0
LOG_LINES = 60
# A page's stream is opened again by the browser; a bound keeps forgotten tabs from living for ever.
STREAM_SECONDS = 3600.0
EVENTS_AT_ONCE = 500


@login_required
@never_cache
@require_GET
def runs(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    found = Run.objects.filter(project=project).select_related("dataset", "version", "created_by")
    context: dict[str, Any] = {
        "project": project,
        "runs": found[:100],
        "pipelines_made": Pipeline.objects.filter(project=project).prefetch_related("runs__version")[:20],
        "datasets": Dataset.objects.filter(project=project)[:20],
        "is_manager": may(request.user, project, Membership.Role.MANAGER),
    }
    if context["is_manager"]:
        context |= choices_for(project)
    return render(request, "training/runs.html", context)


@login_required
@never_cache
@require_GET
def run_plan(request: HttpRequest, slug: str) -> HttpResponse:
    """What the form would queue, in sentences; nothing is written."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    try:
        number = request.GET.get("dataset", "")
        plan = foretell_run(
            project,
            method=request.GET.get("method", "dpo"),
            dataset=dataset_numbered(project, number) if number else None,
            config=config_of(request.GET.get("config", "")),
        )
    except Problem as problem:
        plan = Foretold(problem=problem.message)
    context = {"plan": plan, "suggestion": suggest_method(project)}
    return render(request, "training/_run_plan.html", context)


@login_required
@never_cache
@require_GET
def run(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    project = project_for(request, slug)
    found = (
        Run.objects.select_related("project", "dataset", "version", "reward", "start", "created_by")
        .filter(project=project, number=number)
        .first()
    )
    if found is None:
        raise NotFound(gettext("There is no such run in this project."))
    is_manager = may(request.user, project, Membership.Role.MANAGER)
    context: dict[str, Any] = {
        "project": project,
        "run": found,
        "is_manager": is_manager,
        "facts": facts_of(found),
        "alarms": alarms_of(found),
        "plots": PLOTS.items(),
        "base": Version.objects.filter(project=project, kind=Version.Kind.BASE).order_by("-number").first(),
        "environment": environment_of(found),
        # A log can quote the texts that are trained on, gate or not.
        "log": log_tail(found) if is_manager else "",
        "evaluations": found.version.evaluations.all()[:10] if found.version else [],
    }
    if request.headers.get("HX-Request") == "true":
        return render(request, "training/_run.html", context)
    return render(request, "training/run.html", context)


async def run_events(request: HttpRequest, slug: str, number: int) -> HttpResponseBase:
    """What the run says, as it says it: `progress` events, and one `done` when it is over.

    The id of an event is its place in the run's file, so that a reader that comes back goes on there.
    """
    run_id = await in_database(_find, request, slug, number)
    seen = read_whole(request.headers.get("Last-Event-ID", ""), digits=15)
    after = -1 if seen is None else seen
    return StreamingHttpResponse(
        _follow(run_id, after),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _find(request: HttpRequest, slug: str, number: int) -> Any:
    found = Run.objects.filter(project=project_for(request, slug), number=number).values_list("pk", flat=True)
    run_id = found.first()
    if run_id is None:
        raise NotFound(gettext("There is no such run in this project."))
    return run_id


async def _follow(run_id: Any, after: int) -> AsyncIterator[bytes]:
    yield b": here\n\n"
    ends = time.monotonic() + STREAM_SECONDS
    spoke, last_facts = time.monotonic(), None
    while time.monotonic() < ends:
        events, facts, is_over = await in_database(_news, run_id, after)
        for sequence, data in events:
            after = sequence
            yield _event("progress", data, id_=sequence)
        if facts != last_facts:
            last_facts = facts
            yield _event("state", facts)
            spoke = time.monotonic()
        if is_over and len(events) < EVENTS_AT_ONCE:
            yield _event("done", {"status": facts["status"]})
            return
        if time.monotonic() - spoke > SIGN_OF_LIFE_SECONDS:
            spoke = time.monotonic()
            yield b": waiting\n\n"
        if len(events) < EVENTS_AT_ONCE:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _news(run_id: Any, after: int) -> tuple[list[tuple[int, dict[str, Any]]], dict[str, Any], bool]:
    """Events after that place, the run's numbers now, and whether it is over."""
    # The run first: events that came with its end are then among those read after.
    found = Run.objects.get(pk=run_id)
    rows = RunEvent.objects.filter(run_id=run_id, sequence__gt=after, name="progress")
    events = [
        (row.sequence, {"step": row.data.get("step"), "metrics": numbers_of(row.data)})
        for row in rows[:EVENTS_AT_ONCE]
    ]
    return events, facts_of(found), not found.is_active


def environment_of(run: Run) -> dict[str, Any]:
    """Where it ran and with what: of its last start."""
    started = RunEvent.objects.filter(run=run, name="started").order_by("-sequence").first()
    told = started.data.get("environment") if started is not None else None
    place = {"launcher": run.launcher, "host": run.handle.get("host"), "job": run.handle.get("job")}
    found = {name: value for name, value in place.items() if value}
    return {**found, **told} if isinstance(told, dict) else found


def facts_of(run: Run) -> dict[str, Any]:
    """The numbers at the head of a run's page."""
    return {
        "status": run.status,
        "status_label": run.get_status_display(),
        "step": run.step,
        "total": run.total_steps,
        "loss": run.metrics.get("loss"),
        "reward_accuracy": run.metrics.get("reward_accuracy"),
        "reward_margin": run.metrics.get("reward_margin"),
        "tokens_per_second": run.metrics.get("tokens_per_second"),
        "seconds_left": run.metrics.get("seconds_left") if run.is_active else None,
        "attempt": run.attempt,
    }


def _event(name: str, data: dict[str, Any], *, id_: int | None = None) -> bytes:
    head = f"id: {id_}\n" if id_ is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()
