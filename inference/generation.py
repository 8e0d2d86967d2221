"""One request's answers in the making: from an engine into their rows, past whoever reads along.

A generation is run by a task of its own. A reader gets everything so far and then what comes, joined into one
piece when it reads slowly, so that no queue grows. The order at admission: an engine accepts, the rows are
written, the reader hears of it. So a refusal writes nothing, and the rows stand before the first token is
passed on.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction

from inference.client import (
    EngineBroken,
    EngineError,
    EngineRefused,
    EngineSilent,
    EngineStream,
    ModelMissing,
    Usage,
    chat_body,
    open_stream,
)
from inference.models import Completion, Conversation, Prompt, Version
from inference.services.breakers import PULSE_SECONDS, Breaker
from inference.services.completions import (
    MAX_TEXT,
    finish_completion,
    gap_numbers,
    is_read_elsewhere,
    problem_of,
    start_completion,
)
from inference.services.engines import EngineChoice, answering, in_order, none_of, worst_of
from inference.services.prompts import MAX_CHARS_A_TOKEN, record_prompt
from projects.errors import Problem, Unavailable, as_problem
from projects.ids import uuid7
from projects.models import ApiKey, Project
from projects.offload import in_database, lightly_committed, write_to_database

logger = logging.getLogger(__name__)

# Who asked but never began to read: its connection broke just then.
UNREAD_SECONDS = 10.0
FINISH_TRIES = 4
# With another engine to ask, nobody waits longer than this for one to accept.
ACCEPT_SECONDS = 5.0
CANCELLED = "cancelled"  # the finish reason of an answer that was stopped


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request that was checked, with the version that it is bound to."""

    project: Project
    version: Version
    engine_name: str
    engines: list[EngineChoice]
    messages: list[dict[str, str]]
    sampling: dict[str, Any]
    n: int = 1
    prompt: Prompt | None = None  # when it is recorded already
    conversation: Conversation | None = None
    parent: Completion | None = None
    subject: str = ""
    api_key: ApiKey | None = None
    readerless_seconds: float = 0.0
    opted_out: bool = False  # of being sampled for raters

    @property
    def label(self) -> str:
        return f"{self.project.slug}@v{self.version.number}"


@dataclass
class Choice:
    """One completion in the making. Times are seconds of the monotonic clock."""

    id: uuid.UUID
    index: int
    text: str = ""
    finish_reason: str = ""
    pieces: int = 0
    tokens: int | None = None
    first: float | None = None
    last: float | None = None
    ended: float | None = None
    gaps_ms: list[float] = field(default_factory=list)

    def take(self, text: str, now: float) -> None:
        self.text += text
        self.pieces += 1
        if self.first is None:
            self.first = now
        elif self.last is not None:
            self.gaps_ms.append((now - self.last) * 1000)
        self.last = now


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a reader has not seen yet of one choice. `end` is the number of characters seen with it."""

    index: int
    text: str
    end: int


class Waiting:
    """Nothing new for a while; a sign of life keeps proxies from closing the connection."""


class Generation:
    """One request's answers. Made by the relay's hub, on the event loop."""

    def __init__(
        self, ask: Ask, *, http: httpx.AsyncClient, began: float, on_end: Callable[[Generation], None]
    ) -> None:
        self.ask = ask
        self.began = began
        self.created = int(time.time())
        self.choices = [Choice(id=uuid7(), index=index) for index in range(ask.n)]
        self.usage: Usage | None = None
        self.problem: Problem | None = None
        self.state = Completion.State.RUNNING
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._http = http
        self._on_end = on_end
        self._rows: list[Completion] = []
        self._changed = asyncio.Event()
        self._readers = 0
        self._farewell: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        # An engine that has lost its mind must not take the memory of this process.
        self._longest = max(MAX_TEXT, ask.sampling.get("max_tokens", 0) * MAX_CHARS_A_TOKEN)
        self._clock: asyncio.Timeout | None = None  # of what the engine says next
        self._relaying = asyncio.create_task(self._relay_from_engines())
        self.task = asyncio.create_task(self._run(), name=f"generation {self.choices[0].id}")

    @property
    def is_done(self) -> bool:
        """The rows are closed and committed."""
        return self.state != Completion.State.RUNNING

    @property
    def has_rows(self) -> bool:
        return bool(self._rows)

    def stop(self) -> None:
        """Cancel it at the engine. What is there stays, as a stopped answer."""
        self._relaying.cancel()

    async def follow(
        self, *, seen: int = 0, sign_of_life: float | None = None
    ) -> AsyncGenerator[Delta | Waiting, None]:
        """Everything after the first `seen` characters, and ends when the rows are committed.

        Then `state`, `problem` and `usage` say how it ended. Leaving early counts as a reader gone.
        """
        sent = [seen] * len(self.choices)
        self._join()
        try:
            while True:
                changed, is_done = self._changed, self.is_done
                for choice in self.choices:
                    end = len(choice.text)
                    if end > sent[choice.index]:
                        fresh, sent[choice.index] = choice.text[sent[choice.index] : end], end
                        yield Delta(index=choice.index, text=fresh, end=end)
                if is_done:
                    return
                try:
                    async with asyncio.timeout(sign_of_life):
                        await changed.wait()
                except TimeoutError:
                    yield Waiting()
        finally:
            self._leave()

    async def wait(self) -> None:
        """Read it to its end, as one reader."""
        async for _ in self.follow():
            pass

    def expect_reader(self) -> None:
        """From now on it is stopped when nobody comes to read."""
        if self._readers == 0 and not self.is_done:
            self._part(max(UNREAD_SECONDS, self.ask.readerless_seconds))

    def _join(self) -> None:
        self._readers += 1
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None

    def _leave(self) -> None:
        self._readers -= 1
        if self._readers == 0 and not self.is_done:
            self._part(self.ask.readerless_seconds)

    def _part(self, seconds: float) -> None:
        """Nobody reads it here: it is stopped in so many seconds, unless somebody reads its row elsewhere."""
        leave = self._stop_unless_read if self.ask.readerless_seconds else self.stop
        self._farewell = asyncio.get_running_loop().call_later(seconds, leave)

    def _stop_unless_read(self) -> None:
        self._looking = asyncio.create_task(self._look_for_readers())

    async def _look_for_readers(self) -> None:
        """Stop it, but for a reader whom another process serves from the rows."""
        try:
            is_read = await in_database(is_read_elsewhere, [choice.id for choice in self.choices])
        except (DatabaseError, Problem) as error:
            logger.warning("whether an answer is read elsewhere could not be asked: %s", error)
            is_read = False
        if self._readers or self.is_done:
            return
        if is_read:
            self._part(self.ask.readerless_seconds)
        else:
            self.stop()

    async def _run(self) -> None:
        """Relay in a task that may be cancelled, and close the rows in this one, which is not."""
        problem: Problem | None = None
        state = Completion.State.FINISHED
        try:
            await self._relaying
        except asyncio.CancelledError:  # stopped, or the server shuts down
            state = Completion.State.STOPPED
        except EngineError as error:
            state, problem = Completion.State.FAILED, problem_of(error, self.ask.version)
        except Problem as error:
            state, problem = Completion.State.FAILED, error
        except DatabaseError as error:
            logger.exception("the rows of an answer could not be written")
            state, problem = Completion.State.FAILED, as_problem(error) or _database_away()
        except Exception:
            logger.exception("an answer broke")
            state = Completion.State.FAILED
            problem = Unavailable("Something broke on our side. It has been logged.", code="internal_error")
        await self._end(state, problem)

    async def _end(self, state: Completion.State, problem: Problem | None) -> None:
        self.problem = problem
        try:
            if self._rows:
                await self._close_rows(state)
        finally:
            self._on_end(self)
            self.state = state
            if not self.admitted.done():
                self.admitted.set_exception(problem or Unavailable("The request was cancelled."))
                self.admitted.exception()  # seen: whoever asked may be gone
            self._notify()

    async def _relay_from_engines(self) -> None:
        """Ask the engines in order until one gives a first token; from then on that one alone counts."""
        first_token = self.began + settings.FIRST_TOKEN_SECONDS
        errors: list[EngineError] = []
        urls = in_order(self.ask.engines)
        for url in urls:
            try:
                with answering(url) as breaker:
                    await self._relay_from(breaker, first_token, is_last=url == urls[-1])
                return
            except EngineError as error:
                is_refusal = isinstance(error, EngineRefused) and not isinstance(error, ModelMissing)
                is_late = time.monotonic() >= first_token
                if is_refusal or is_late or any(choice.text for choice in self.choices):
                    raise
                errors.append(error)
        raise worst_of(errors) if errors else none_of(self.ask.engines)

    async def _relay_from(self, breaker: Breaker, first_token: float, *, is_last: bool) -> None:
        ask, engine = self.ask, breaker.client
        body = chat_body(model=ask.engine_name, messages=ask.messages, sampling=ask.sampling, n=ask.n)
        left = max(0.001, first_token - time.monotonic())
        if not is_last:
            left = min(left, ACCEPT_SECONDS)
        async with open_stream(
            self._http, engine.url, headers=engine.headers, body=body, timeout=left
        ) as stream:
            if not self._rows:
                await self._begin_rows()
            if not self.admitted.done():
                self.admitted.set_result(None)
            watch = asyncio.create_task(self._watch(breaker))
            try:
                await self._take_all(stream, first_token, breaker)
            except TimeoutError as error:
                if not breaker.is_shut_out or any(choice.text for choice in self.choices):
                    raise EngineBroken("the engine fell silent") from error
                raise EngineSilent("the engine fell silent before its first token") from error
            finally:
                watch.cancel()

    async def _watch(self, breaker: Breaker) -> None:
        """Before the first token: find out that the engine is frozen, long before the deadline says so."""
        while not any(choice.text for choice in self.choices):
            await asyncio.sleep(PULSE_SECONDS)
            if not await breaker.is_alive(self._http):
                breaker.failed(EngineSilent("it does not answer /health"))
                if self._clock is not None and not any(choice.text for choice in self.choices):
                    self._clock.reschedule(asyncio.get_running_loop().time())
                return

    async def _begin_rows(self) -> None:
        """Write the rows. Whoever cancels meanwhile waits until they are there, so that they get an end."""
        writing = asyncio.ensure_future(
            write_to_database(_write_rows, self.ask, [choice.id for choice in self.choices])
        )
        try:
            self._rows = await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._rows = await writing
            raise

    async def _take_all(self, stream: EngineStream, first_token: float, breaker: Breaker) -> None:
        """Take the engine's pieces within the deadlines: first token, gap, total."""
        loop = asyncio.get_running_loop()
        drift = loop.time() - time.monotonic()  # both are monotonic, and need not begin alike
        hard = self.began + settings.ANSWER_SECONDS
        async with asyncio.timeout_at(first_token + drift) as clock:
            self._clock = clock
            async for event in stream:
                now = time.monotonic()
                breaker.heard = now
                if isinstance(event, Usage):
                    self.usage = event
                    continue
                if not 0 <= event.index < len(self.choices):
                    raise EngineBroken("the engine sent a choice that nobody asked for")
                choice = self.choices[event.index]
                if event.tokens is not None:
                    choice.tokens = event.tokens
                if event.text:
                    if choice.first is None:
                        breaker.succeeded()
                    choice.take(event.text, now)
                    if len(choice.text) > self._longest:
                        raise EngineBroken("the engine says more than it was asked for")
                    clock.reschedule(min(now + settings.TOKEN_GAP_SECONDS, hard) + drift)
                    self._notify()
                if event.finish_reason:
                    choice.finish_reason, choice.ended = event.finish_reason, now
        if not all(choice.finish_reason for choice in self.choices):
            raise EngineBroken("the engine ended an answer without a finish reason")

    async def _close_rows(self, state: Completion.State) -> None:
        """Commit the end. Tried again for a while: a database that restarts should not cost an answer."""
        for attempt in range(FINISH_TRIES):
            try:
                await write_to_database(self._write_end, state)
            except (DatabaseError, Problem) as error:
                logger.warning("the end of an answer could not be written yet: %s", error)
                if attempt + 1 == FINISH_TRIES:
                    # The row stays running until the reaper closes it; whoever reads is told.
                    self.problem = as_problem(error) or _database_away()
                    return
                await asyncio.sleep(0.2 * 4**attempt)
            else:
                return

    def _write_end(self, state: Completion.State) -> None:
        shares = self._token_shares()
        with transaction.atomic():
            for row, choice, tokens_out in zip(self._rows, self.choices, shares, strict=True):
                own, error = state, self.problem.message if self.problem else ""
                finish_reason = choice.finish_reason
                if own == Completion.State.STOPPED and choice.finish_reason:
                    own = Completion.State.FINISHED  # this one had ended when another was stopped
                elif own == Completion.State.STOPPED:
                    finish_reason = CANCELLED
                    if not choice.text:
                        own, error = Completion.State.FAILED, "Stopped before its first token."
                ended = choice.ended or choice.last
                finish_completion(
                    completion=row,
                    state=own,
                    text=choice.text,
                    finish_reason=finish_reason,
                    error=error,
                    tokens_in=self.usage.tokens_in if self.usage else None,
                    tokens_out=tokens_out,
                    ttft_ms=(choice.first - self.began) * 1000 if choice.first else None,
                    total_ms=(ended - self.began) * 1000 if ended else None,
                    **gap_numbers(choice.gaps_ms),
                )

    def _token_shares(self) -> list[int | None]:
        """Tokens out of each choice: as the engine counted them, else its total shared by pieces."""
        if all(choice.tokens is not None for choice in self.choices):
            return [choice.tokens for choice in self.choices]
        pieces = [choice.pieces for choice in self.choices]
        if self.usage is None or not sum(pieces):
            return [choice.pieces or None for choice in self.choices]
        shares: list[int | None] = []
        seen = given = 0
        for count in pieces:
            seen += count
            upto = round(self.usage.tokens_out * seen / sum(pieces))
            shares.append(upto - given)
            given = upto
        return shares

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _write_rows(ask: Ask, ids: list[uuid.UUID]) -> list[Completion]:
    """The prompt, when it is new, and a running completion a choice, all or none."""
    with lightly_committed():
        prompt = ask.prompt
        if prompt is None:
            prompt, _ = record_prompt(
                project=ask.project,
                messages=ask.messages,
                conversation=ask.conversation,
                parent=ask.parent,
            )
        return [
            start_completion(
                project=ask.project,
                prompt=prompt,
                version=ask.version,
                sampling=ask.sampling,
                index=index,
                subject=ask.subject,
                api_key=ask.api_key,
                opted_out=ask.opted_out,
                id=id_,
            )
            for index, id_ in enumerate(ids)
        ]


def _database_away() -> Problem:
    return Unavailable("The database does not answer. Try again in a moment.", code="database_unavailable")
