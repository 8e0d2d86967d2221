"""All answers that this process is making, for the OpenAI endpoint and the chat page alike.

Each request is a Generation. The two differ in how long it goes on without a reader.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import httpx
from django.conf import settings
from django.db import Error as DatabaseError

from inference.client import certificates_for
from inference.generation import Ask, Generation
from inference.models import Prompt
from inference.services.completions import TOUCH_SECONDS, completions_to_stop, touch_completions
from inference.services.engines import engines_for
from inference.services.versions import resolve_version
from projects.errors import Problem, TooMany
from projects.models import Project
from projects.offload import in_database, write_to_database

logger = logging.getLogger(__name__)
T = TypeVar("T")
STOP_LOOK_SECONDS = 0.5  # how often to look whether another process was asked to stop an answer of ours
TOUCHED_AT_ONCE = 50  # so that the database's threads are not taken for long


class Hub:
    """All answers that this process is making."""

    def __init__(self) -> None:
        self.http = httpx.AsyncClient(
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=32,
                # Shorter than a server's patience, so that no request meets a connection that just closed.
                keepalive_expiry=2.0,
            ),
            trust_env=False,
            verify=certificates_for(*settings.ENGINE_URLS),
        )
        self._by_completion: dict[uuid.UUID, Generation] = {}
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, ask: Ask, *, began: float | None = None) -> Generation:
        """Admit a request: returns when an engine has accepted it and its rows are written.

        Raises TooMany, Unavailable or Problem with nothing written. `began` is the monotonic time at which
        the request came in.
        """
        if len(self._by_completion) + ask.n > settings.MAX_STREAMS:
            raise TooMany(
                f"This server is making {settings.MAX_STREAMS} answers already. Try again in a moment.",
                code="too_many_streams",
            )
        began = time.monotonic() if began is None else began
        generation = Generation(ask, http=self.http, began=began, on_end=self.forget)
        for choice in generation.choices:
            self._by_completion[choice.id] = generation
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())
        try:
            await asyncio.shield(generation.admitted)
        except asyncio.CancelledError:
            generation.stop()
            raise
        generation.expect_reader()
        return generation

    def find(self, completion_id: uuid.UUID) -> Generation | None:
        """The generation that is making this completion here, if it is."""
        return self._by_completion.get(completion_id)

    def forget(self, generation: Generation) -> None:
        for choice in generation.choices:
            self._by_completion.pop(choice.id, None)

    async def _keep(self) -> None:
        """While there are answers: stop those that should stop, and now and then write down what all say."""
        touched = time.monotonic()
        while self._by_completion:
            await asyncio.sleep(STOP_LOOK_SECONDS)
            await self._stop_asked()
            if time.monotonic() - touched < TOUCH_SECONDS:
                continue
            touched = time.monotonic()
            running = [one for one in set(self._by_completion.values()) if one.has_rows]
            texts = [(choice.id, choice.text) for one in running for choice in one.choices]
            for batch in batched(texts, TOUCHED_AT_ONCE):
                try:
                    await write_to_database(touch_completions, dict(batch))
                except (DatabaseError, Problem) as error:
                    logger.warning("answers in the making could not be noted: %s", error)

    async def _stop_asked(self) -> None:
        try:
            asked = await in_database(completions_to_stop)
        except (DatabaseError, Problem) as error:
            logger.warning("whether answers are to be stopped could not be read: %s", error)
            return
        for completion_id in asked:
            generation = self.find(completion_id)
            if generation is not None:
                generation.stop()

    async def stop_all(self) -> None:
        """Stop every answer, and return when their rows are closed."""
        if self._keeping is not None:
            self._keeping.cancel()
        generations = set(self._by_completion.values())
        for generation in generations:
            generation.stop()
        if generations:
            await asyncio.wait([generation.task for generation in generations])
        await self.http.aclose()


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def hub() -> Hub:
    """The hub of the running event loop; a server process has one."""
    loop = asyncio.get_running_loop()
    if loop not in _hubs:
        _hubs[loop] = Hub()
    return _hubs[loop]


async def stop_answers() -> None:
    """For a server that shuts down: what was said so far is kept, as stopped answers."""
    found = _hubs.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.stop_all()


def prepare_ask(*, project: Project, model: str, sticky: str, **fields: Any) -> Ask:
    """Bind a request to a version and to the engines to ask, in that order. Raises ModelNotFound."""
    version = resolve_version(project=project, model=model, sticky=sticky)
    name = version.engine_name
    return Ask(project=project, version=version, engine_name=name, engines=engines_for(name), **fields)


async def start_answer(
    *,
    project: Project,
    prompt: Prompt,
    sticky: str,
    model: str = "",
    sampling: dict[str, Any] | None = None,
) -> uuid.UUID:
    """Begin an answer that belongs to the server, for a page, and return the id of its running completion.

    Without `model` it is the champion, or the canary for its share of `sticky` keys (a conversation's id).
    It goes on for READERLESS_SECONDS after its last reader. Call it from an asynchronous view. Raises
    Unavailable, TooMany or Problem with nothing written.
    """
    ask = await in_database(
        prepare_ask,
        project=project,
        model=model or project.slug,
        sticky=sticky,
        messages=prompt.messages,
        sampling=sampling or {"temperature": project.temperature, "max_tokens": project.max_tokens},
        prompt=prompt,
        readerless_seconds=settings.READERLESS_SECONDS,
    )
    generation = await hub().start(ask)
    return generation.choices[0].id
