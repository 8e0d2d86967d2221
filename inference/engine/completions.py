"""One chat completion, from its first token to its last: whole, or as the frames of a stream."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from inference.engine.errors import DeadlineExceeded, EngineError, Unavailable
from inference.engine.lane import Event, Generation
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.protocol import ChatRequest, chunk, completion, usage, usage_chunk
from inference.engine.sampling import Sampling
from inference.engine.served import ServedVersion
from inference.engine.text import TextStream


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds after which an answer is given up."""

    first_token: float
    gap: float  # between two tokens
    total: float

    @classmethod
    def of(cls, options: Options) -> Deadlines:
        return cls(options.first_token_timeout_s, options.gap_timeout_s, options.request_timeout_s)


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one choice."""

    choice: int
    text: str
    finish: str | None


class Completion:
    """An admitted request: its choices wait or run, and are cancelled by `close`."""

    def __init__(
        self, request: ChatRequest, version: ServedVersion, prompt: list[int], max_tokens: int, *,
        decode: Callable[[list[int]], str], metrics: Metrics, deadlines: Deadlines,
        on_close: Callable[[Completion], None],
    ) -> None:  # fmt: skip
        self.request = request
        self._version = version
        self._metrics = metrics
        self._deadlines = deadlines
        self._on_close = on_close
        self._began = time.monotonic()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._prompt_tokens = len(prompt)
        choices = range(request.n or 1)
        self._made = [0 for _ in choices]
        self._texts = [TextStream(decode, request.stops) for _ in choices]
        self._open = {
            choice: Generation(
                choice=choice,
                prompt=prompt,
                sampling=Sampling.of(
                    temperature=request.temperature,
                    top_p=request.top_p,
                    top_k=request.top_k,
                    seed=request.seed,
                    choice=choice,
                ),
                max_tokens=max_tokens,
                ends_at_eos=not request.ignore_eos,
                events=self._events,
            )
            for choice in choices
        }
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": version.name,
            "system_fingerprint": version.digest,
        }
        version.lane.submit(list(self._open.values()))

    @property
    def seconds_left(self) -> float:
        """Until it is given up, however slowly its reader reads."""
        return self._began + self._deadlines.total - time.monotonic()

    async def whole(self) -> dict[str, Any]:
        """The answer as one body. Raises EngineError when it cannot be finished."""
        texts = ["" for _ in self._texts]
        finishes = ["" for _ in self._texts]
        async for piece in self._pieces():
            texts[piece.choice] += piece.text
            finishes[piece.choice] = piece.finish or ""
        return completion(self._head, choices=list(zip(texts, finishes, strict=True)), counted=self._usage())

    async def frames(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events. A failure is an error frame; then nothing, not even [DONE]."""
        for choice in range(len(self._texts)):
            yield self._chunk(choice, {"role": "assistant", "content": ""})
        try:
            async for piece in self._pieces():
                if piece.text:
                    yield self._chunk(piece.choice, {"content": piece.text})
                if piece.finish:
                    yield self._chunk(piece.choice, {}, piece.finish)
        except EngineError as error:
            yield _frame(error.body())
            return
        if self.request.wants_usage_chunk:
            yield _frame(usage_chunk(self._head, self._usage()))
        yield b"data: [DONE]\n\n"

    def close(self) -> None:
        """Cancel what is still open. Safe to call twice."""
        for generation in self._open.values():
            self._version.lane.cancel(generation)
            self._metrics.cancelled.labels(self._version.name).inc()
        self._open.clear()
        self._on_close(self)

    async def _pieces(self) -> AsyncIterator[Piece]:
        """News of the choices, in the order in which it comes, until every choice has ended."""
        name = self._version.name
        last: dict[int, float] = {}  # choice -> when its last token came
        waits_since = self._began
        while self._open:
            event = await self._next_event(since=waits_since, is_first=not last)
            if event.choice not in self._open:
                continue
            if event.error is not None:
                del self._open[event.choice]
                raise Unavailable(f"the answer failed: {event.error}", code="generation_failed")
            if not last:
                self._metrics.first_token.labels(name).observe(event.at - self._began)
                self._metrics.prompt_tokens.labels(name).inc(self._prompt_tokens)
            elif event.choice in last:
                self._metrics.between_tokens.labels(name).observe(event.at - last[event.choice])
            last[event.choice] = waits_since = event.at
            self._made[event.choice] += len(event.tokens)
            self._metrics.generation_tokens.labels(name).inc(len(event.tokens))
            yield self._piece(event)
        self._metrics.whole.labels(name).observe(time.monotonic() - self._began)

    async def _next_event(self, *, since: float, is_first: bool) -> Event:
        """Raises DeadlineExceeded when it does not come in time."""
        allowed = self._deadlines.first_token if is_first else self._deadlines.gap
        now = time.monotonic()
        try:
            async with asyncio.timeout(min(since + allowed - now, self.seconds_left)):
                return await self._events.get()
        except TimeoutError:
            if self.seconds_left <= 0:
                why = "the whole answer took longer than --request-timeout"
            elif is_first:
                why = "no first token came within --first-token-timeout"
            else:
                why = "no further token came within --gap-timeout"
            raise DeadlineExceeded(f"{why}: the answer was given up") from None

    def _piece(self, event: Event) -> Piece:
        """The text that the tokens make certain; an answer that has come to its end is closed."""
        text = self._texts[event.choice]
        fresh = text.push(event.tokens)
        finish = "stop" if text.stopped else event.finish
        if finish:
            fresh += text.finish()
            generation = self._open.pop(event.choice)
            if event.finish is None:
                self._version.lane.cancel(generation)
            self._metrics.success.labels(self._version.name, finish).inc()
        return Piece(event.choice, fresh, finish)

    def _chunk(self, choice: int, delta: dict[str, str], finish: str | None = None) -> bytes:
        counted = None
        if self.request.wants_usage_in_every_chunk:
            counted = usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._made[choice])
        return _frame(chunk(self._head, index=choice, delta=delta, finish=finish, counted=counted))

    def _usage(self) -> dict[str, int]:
        return usage(prompt_tokens=self._prompt_tokens, completion_tokens=sum(self._made))


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
