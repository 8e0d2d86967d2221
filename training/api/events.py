"""`GET runs/{n}/events`: what a run says, as server-sent events.

    id: 1834            the place of the line in the run's events.jsonl
    event: progress     or started, checkpoint, finished, failed
    data: {"step": 3, "total": 24, "metrics": {...}}

A reader that comes back with Last-Event-ID goes on there. `event: run` carries the run whenever its status
changes, and `event: end` is the last. Between events no database connection is held.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from projects.auth import authenticate_key
from projects.errors import require_method
from projects.models import ApiKey, Project
from projects.numbers import read_whole
from projects.offload import in_database
from training.api.answers import RunSerializer
from training.models import RunEvent
from training.services.runs import find_run, runs_of

LOOK_AGAIN_SECONDS = 0.5
SIGN_OF_LIFE_SECONDS = 15.0
EVENTS_AT_ONCE = 200


@csrf_exempt
async def run_events(request: HttpRequest, number: int) -> HttpResponseBase:
    """The stream; 401, 403 and 404 come before it begins."""
    require_method(request, "GET")  # not HEAD, which would follow the run for nobody
    project = await in_database(_admit, request, number)
    seen = read_whole(request.headers.get("Last-Event-ID", ""), digits=15)
    after = -1 if seen is None else seen
    return StreamingHttpResponse(
        _follow(project, number, after),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _admit(request: HttpRequest, number: int) -> Project:
    project = authenticate_key(request, scope=ApiKey.Scope.DATA_READ).project
    find_run(project, number)
    return project


async def _follow(project: Project, number: int, after: int) -> AsyncIterator[bytes]:
    told, spoke = "", time.monotonic()
    while True:
        run, events = await in_database(_news, project, number, after)
        frames = [_frame(name, data, id_=sequence) for sequence, name, data in events]
        if run["status"] != told:
            told = run["status"]
            frames.append(_frame("run", run))
        if frames or time.monotonic() - spoke > SIGN_OF_LIFE_SECONDS:
            spoke = time.monotonic()
            yield b"".join(frames) or b": waiting\n\n"
        if events:
            after = events[-1][0]
        if len(events) == EVENTS_AT_ONCE:
            continue
        if run["status"] not in ("queued", "running"):
            yield _frame("end", {"status": run["status"], "cause": run["cause"]})
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)


def _news(
    project: Project, number: int, after: int
) -> tuple[dict[str, Any], list[tuple[int, str, dict[str, Any]]]]:
    """The run as it is, and its events after that place. The run first: its last events come with it."""
    run = runs_of(project).get(number=number)
    rows = RunEvent.objects.filter(run=run, sequence__gt=after)[:EVENTS_AT_ONCE]
    return dict(RunSerializer(run).data), [(row.sequence, row.name, row.data) for row in rows]


def _frame(name: str, data: dict[str, Any], *, id_: int | None = None) -> bytes:
    head = f"id: {id_}\n" if id_ is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data, default=str)}\n\n".encode()
