"""The chat page's way to an answer in the making: follow it, take it up again after a reload, stop it.

The answer belongs to the server. Events of the stream:

    delta   {"text"}                                        text to append
    done    {"state", "finish_reason", "tokens_out", "ttft_ms"}   committed: it can be rated now
    error   {"error": {...}}                                the one error shape; the text so far is kept

The id of a delta is the number of characters up to its end, so that a browser that connects again by itself
goes on where it was; `?seen=` says the same for a page that connects anew.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase, JsonResponse

from inference.generation import Delta, Generation
from inference.models import Completion
from inference.relay import hub
from inference.services.completions import ask_to_stop, read_on
from inference.sse import EventStream
from projects.access import project_for
from projects.errors import Conflict, NotFound, Unavailable, error_body, require_method
from projects.numbers import read_whole
from projects.offload import in_database, write_to_database

SIGN_OF_LIFE_SECONDS = 15.0
# A browser whose connection broke tries again after so many milliseconds; its own default is three seconds.
HERE = b": here\nretry: 1000\n\n"
# How often to look at the row of an answer that another process is making.
LOOK_AGAIN_SECONDS = 1.0


# How long a stop waits for the process that makes the answer, which looks every half second.
STOP_SECONDS = 10.0
STOP_LOOK_SECONDS = 0.2


class NotStoppedYet(Conflict):
    code = "not_stopped_yet"
    message = (
        "The server process that makes this answer was told to stop it and has not yet. When that process "
        "is gone, the answer is closed within a minute."
    )


async def stream(request: HttpRequest, slug: str, completion_id: uuid.UUID) -> HttpResponseBase:
    """Everything so far, then what comes, then how it ended. Holds no database connection meanwhile."""
    completion = await in_database(_find, request, slug, completion_id)
    # A browser that gave up connecting cannot set the header when its page tries again.
    given = request.headers.get("Last-Event-ID") or request.GET.get("seen", "")
    seen = read_whole(given, digits=7) or 0
    generation = hub().find(completion_id)
    request_id = getattr(request, "request_id", "")
    events = (
        _follow(generation, completion_id, seen, request_id)
        if generation is not None
        else _from_row(completion, seen, request_id)
    )
    return EventStream(events)


async def stop(request: HttpRequest, slug: str, completion_id: uuid.UUID) -> HttpResponseBase:
    """Cancel an answer and keep its text. Answering again for one that has ended is no error."""
    require_method(request, "POST")
    completion = await in_database(_find, request, slug, completion_id)
    generation = hub().find(completion_id)
    if generation is not None:
        generation.stop()
        await asyncio.wait([generation.task])
        completion = await in_database(_find, request, slug, completion_id)
    elif completion.state == Completion.State.RUNNING:
        completion = await _stop_elsewhere(completion)
    return JsonResponse({"state": completion.state, "text": completion.text})


async def _stop_elsewhere(completion: Completion) -> Completion:
    """Have another process stop it, and wait for its end. Raises NotStoppedYet."""
    await write_to_database(ask_to_stop, completion)
    deadline = time.monotonic() + STOP_SECONDS
    while completion.state == Completion.State.RUNNING:
        if time.monotonic() > deadline:
            raise NotStoppedYet()
        await asyncio.sleep(STOP_LOOK_SECONDS)
        completion = await in_database(Completion.objects.get, pk=completion.pk)
    return completion


def _find(request: HttpRequest, slug: str, completion_id: uuid.UUID) -> Completion:
    """A completion of the project; one of a conversation is for its owner alone. Raises NotFound."""
    project = project_for(request, slug)
    completion = (
        Completion.objects.select_related("prompt__conversation")
        .filter(project=project, id=completion_id)
        .first()
    )
    if completion is None:
        raise NotFound("There is no such answer.")
    conversation = completion.prompt.conversation
    if conversation is not None and conversation.owner_id != request.user.pk:
        raise NotFound("There is no such answer.")
    return completion


async def _follow(
    generation: Generation, completion_id: uuid.UUID, seen: int, request_id: str
) -> AsyncGenerator[bytes, None]:
    index = next(choice.index for choice in generation.choices if choice.id == completion_id)
    yield HERE  # the browser sees an open connection at once
    async with aclosing(generation.follow(seen=seen, sign_of_life=SIGN_OF_LIFE_SECONDS)) as followed:
        async for event in followed:
            if not isinstance(event, Delta):
                yield b": waiting\n\n"
            elif event.index == index:
                yield _event("delta", {"text": event.text}, id_=event.end)
    if generation.problem is not None:
        yield _event("error", error_body(generation.problem, request_id))
    else:
        completion = await in_database(Completion.objects.get, pk=completion_id)
        yield _ending(completion, request_id)


async def _from_row(completion: Completion, seen: int, request_id: str) -> AsyncGenerator[bytes, None]:
    """For an answer that this process does not make: its row, in which the text grows every few seconds."""
    yield HERE
    deadline = time.monotonic() + settings.ANSWER_SECONDS
    while True:
        if completion.state == Completion.State.RUNNING:
            completion = await write_to_database(read_on, completion.pk)
        if completion.text[seen:]:
            yield _event("delta", {"text": completion.text[seen:]}, id_=len(completion.text))
            seen = len(completion.text)
        if completion.state != Completion.State.RUNNING:
            break
        if time.monotonic() > deadline:
            problem = Unavailable("This answer was lost. Ask again.", code="answer_lost")
            yield _event("error", error_body(problem, request_id))
            return
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        yield b": waiting\n\n"
    yield _ending(completion, request_id)


def _ending(completion: Completion, request_id: str) -> bytes:
    if completion.state == Completion.State.FAILED:
        message = completion.error or "The answer broke off."
        return _event("error", error_body(Unavailable(message, code="answer_failed"), request_id))
    return _event(
        "done",
        {
            "state": completion.state,
            "finish_reason": completion.finish_reason,
            "tokens_out": completion.tokens_out,
            "ttft_ms": completion.ttft_ms,
        },
    )


def _event(name: str, data: dict[str, Any], *, id_: int | None = None) -> bytes:
    lines = [f"event: {name}", f"data: {json.dumps(data, ensure_ascii=False)}"]
    if id_ is not None:
        lines.insert(0, f"id: {id_}")
    return ("\n".join(lines) + "\n\n").encode()
