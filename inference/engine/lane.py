"""A lane: one version's weights, its continuous-batching manager, and the answers that it is making.

The manager's thread dies of anything unexpected and takes every request with it. So a lane gives it only what
was checked, never more than its cache can hold, and starts a new one when it died all the same.
All methods run on the event loop; only `Manager` and `Router` are entered by the generation thread.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from inference.engine.manager import PAGE, Manager, Router
from inference.engine.sampling import Sampling

log = logging.getLogger("ratchet.engine")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Event:
    """News of one choice: fresh tokens, and how it ended once it has."""

    choice: int
    tokens: list[int]
    finish: str | None = None  # "stop" or "length"
    error: str | None = None
    at: float = field(default_factory=time.monotonic)  # however late it is read


@dataclass(eq=False, slots=True)
class Generation:
    """One answer being made, waiting or running."""

    choice: int
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    ends_at_eos: bool
    events: asyncio.Queue[Event]
    id: str = field(default_factory=lambda: f"g{next(_numbers)}")
    seen: int = 0  # tokens passed on

    @property
    def pages(self) -> int:
        """Cache that it may need at most."""
        return -(-self.tokens // PAGE)

    @property
    def tokens(self) -> int:
        """Of prompt and answer, at most."""
        return len(self.prompt) + self.max_tokens


class Lane:
    """Makes the answers of one version."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos: Sequence[int],
        cache_tokens: int,
        max_running: int,
        threads: int,
        turns: AbstractContextManager[Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Starts the generation thread. Callable from any thread; the other methods belong to `loop`."""
        self._model = model
        self._eos = sorted(set(eos))
        self._pages = -(-cache_tokens // PAGE)
        self._max_running = max_running
        self._threads = threads
        self._turns = turns
        self._loop = loop
        self._waiting: deque[Generation] = deque()
        self._running: dict[str, Generation] = {}
        self._pages_used = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.restarts = 0
        self._is_stopped = False
        self._manager = self._start()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        return sum(generation.tokens for generation in self._waiting)

    @property
    def step_s(self) -> float:
        """Seconds for which the thread has been at one step; 0 between two."""
        since = self._manager.stepping_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def cache_usage(self) -> float:
        """Share of the cache that running answers may fill."""
        return self._pages_used / self._pages

    @property
    def is_alive(self) -> bool:
        """Whether the generation thread takes work."""
        return self._manager.is_running() and self._manager.background_thread_status.fatal_error is None

    @property
    def has_died(self) -> bool:
        """Whether the thread ended without being told to."""
        return not self.is_alive and not self._is_stopped

    def free_places(self, tokens: int) -> int:
        """Answers of so many tokens, prompt included, that would start at once."""
        if self._waiting:
            return 0
        places = self._max_running - len(self._running)
        return max(0, min(places, (self._pages - self._pages_used) // -(-tokens // PAGE)))

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue answers; each starts when a place and its cache are free, in order."""
        self._waiting.extend(generations)
        self._idle.clear()
        self._pump()

    def cancel(self, generation: Generation) -> None:
        """Forget an answer and free its place. Nothing more is said about it."""
        if self._running.pop(generation.id, None) is not None:
            self._pages_used -= generation.pages
            self._manager.cancel_request(generation.id)
        elif generation in self._waiting:
            self._waiting.remove(generation)
        self._pump()

    def restart(self) -> None:
        """A new thread in place of one that died. Running answers fail, waiting ones go on."""
        self.restarts += 1
        log.error("a generation thread died; starting another, number %d", self.restarts)
        for generation in list(self._running.values()):
            self._fail(generation, "the generation thread died")
        self._manager.stop_hard(timeout=5)
        self._manager = self._start()
        self._pump()

    async def drained(self) -> None:
        """Return when no answer is running or waiting."""
        await self._idle.wait()

    async def stop(self) -> None:
        """End the thread and let go of the cache. Answers still in it fail."""
        self._is_stopped = True
        for generation in [*self._running.values(), *self._waiting]:
            self._fail(generation, "the version was unloaded")
        self._waiting.clear()
        self._idle.set()
        await asyncio.to_thread(self._manager.stop_hard, timeout=10)

    def _start(self) -> Manager:
        manager = Manager(
            self._model,
            eos=self._eos,
            pages=self._pages,
            max_running=self._max_running,
            threads=self._threads,
            turns=self._turns,
            router=Router(self._loop, self._take),
        )
        manager.start()
        return manager

    def _pump(self) -> None:
        """Start what has room. The first in the queue is never overtaken."""
        while self._waiting and self.is_alive and len(self._running) < self._max_running:
            generation = self._waiting[0]
            if self._pages_used + generation.pages > self._pages:
                break
            taken = self._manager.add_request(
                generation.prompt,
                request_id=generation.id,
                max_new_tokens=generation.max_tokens,
                streaming=True,
                eos_token_id=self._eos if generation.ends_at_eos else [],
                sampling=generation.sampling,
            )
            if taken is None:  # the thread has just died: the watchdog starts another, and this one waits
                break
            self._waiting.popleft()
            self._running[generation.id] = generation
            self._pages_used += generation.pages
        if not self._running and not self._waiting:
            self._idle.set()

    def _take(self, outputs: list[GenerationOutput]) -> None:
        """News from the thread: pass it on, and free the places of what has ended."""
        for output in outputs:
            generation = self._running.get(output.request_id)
            if generation is None:  # cancelled meanwhile
                continue
            if output.status == RequestStatus.FAILED:
                self._fail(generation, output.error or "generation failed")
                continue
            fresh = output.generated_tokens[generation.seen :]
            generation.seen += len(fresh)
            finish = None
            if output.status == RequestStatus.FINISHED:
                at_eos = generation.ends_at_eos and bool(fresh) and fresh[-1] in self._eos
                finish = "stop" if at_eos else "length"
                self._release(generation)
            generation.events.put_nowait(Event(generation.choice, fresh, finish))
        self._pump()

    def _fail(self, generation: Generation, why: str) -> None:
        self._release(generation)
        generation.events.put_nowait(Event(generation.choice, [], error=why))

    def _release(self, generation: Generation) -> None:
        if self._running.pop(generation.id, None) is not None:
            self._pages_used -= generation.pages
