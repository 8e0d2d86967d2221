"""One chat completion, from the checked body to its last token."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from inference.engine.chat import ChatTokenizer
from inference.engine.errors import DeadlineExceeded, EngineError, InvalidRequest, Overloaded, Unavailable
from inference.engine.lane import Event, Generation
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.protocol import ChatRequest, chunk, completion, usage, usage_chunk
from inference.engine.sampling import Sampling
from inference.engine.text import TextStream
from inference.engine.versions import ServedVersion, Versions

LONG_BODY = 4096  # characters of messages above which tokenizing leaves the event loop


class Completion:
    """An admitted request: its choices wait or run, and are cancelled by `close`."""

    def __init__(
        self, request: ChatRequest, version: ServedVersion, prompt: list[int], max_tokens: int,
        *, chat: ChatTokenizer, metrics: Metrics, timeout_s: float,
    ) -> None:  # fmt: skip
        self.request = request
        self._version = version
        self._metrics = metrics
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._began = time.monotonic()
        self._deadline = self._began + timeout_s
        self._prompt_tokens = len(prompt)
        self._made = 0
        self._texts = [TextStream(chat.decode, request.stops) for _ in range(request.n or 1)]
        self._open: dict[int, Generation] = {}
        for choice in range(request.n or 1):
            self._open[choice] = Generation(
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
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": version.name,
            "system_fingerprint": version.digest,
        }
        version.lane.submit(list(self._open.values()))

    async def whole(self) -> dict[str, Any]:
        """The answer as one body. Raises EngineError when it cannot be finished."""
        texts = ["" for _ in self._texts]
        finishes = ["" for _ in self._texts]
        async for choice, text, finish in self._pieces():
            texts[choice] += text
            finishes[choice] = finish or ""
        return completion(self._head, choices=list(zip(texts, finishes, strict=True)), counted=self._usage())

    async def frames(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events. A failure is an error frame; then nothing, not even [DONE]."""
        for choice in range(len(self._texts)):
            yield _frame(chunk(self._head, index=choice, delta={"role": "assistant", "content": ""}))
        try:
            async for choice, text, finish in self._pieces():
                if text:
                    yield _frame(chunk(self._head, index=choice, delta={"content": text}))
                if finish:
                    yield _frame(chunk(self._head, index=choice, delta={}, finish=finish))
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

    async def _pieces(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """(choice, fresh text, finish reason at the end) until every choice has ended."""
        name, last = self._version.name, self._began
        while self._open:
            try:
                async with asyncio.timeout(self._deadline - time.monotonic()):
                    event = await self._events.get()
            except TimeoutError:
                raise DeadlineExceeded("the answer took too long and was given up") from None
            if event.choice not in self._open:
                continue
            if event.error is not None:
                del self._open[event.choice]
                raise Unavailable(f"the answer failed: {event.error}", code="generation_failed")
            now = time.monotonic()
            timing = self._metrics.between_tokens if self._made else self._metrics.first_token
            timing.labels(name).observe(now - last)
            last = now
            self._made += len(event.tokens)
            text = self._texts[event.choice]
            fresh = text.push(event.tokens)
            finish = "stop" if text.stopped else event.finish
            if finish:
                fresh += text.finish()
                generation = self._open.pop(event.choice)
                if event.finish is None:
                    self._version.lane.cancel(generation)
                self._metrics.success.labels(name, finish).inc()
            yield event.choice, fresh, finish
        self._metrics.prompt_tokens.labels(name).inc(self._prompt_tokens)
        self._metrics.generation_tokens.labels(name).inc(self._made)
        self._metrics.whole.labels(name).observe(time.monotonic() - self._began)

    def _usage(self) -> dict[str, int]:
        return usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._made)


async def admit(
    request: ChatRequest, *, versions: Versions, metrics: Metrics, options: Options
) -> Completion:
    """Check what needs the model to be checked, and queue the answers. Raises EngineError."""
    base = versions.base
    version = versions.get(request.model)
    length = sum(len(message.text()) for message in request.messages)
    if length > LONG_BODY:
        prompt = await asyncio.to_thread(base.chat.encode, request.messages)
        version = versions.get(request.model)  # it may have been unloaded meanwhile
    else:
        prompt = base.chat.encode(request.messages)
    room = base.memory.max_model_len - len(prompt)
    wanted = request.wanted_tokens
    if room < (wanted or 1):
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens and max_tokens is {wanted or 'not given'}; together at "
            f"most {base.memory.max_model_len} fit: shorten the messages or lower max_tokens",
            code="context_length_exceeded",
            param="messages",
        )
    choices = request.n or 1
    must_wait = max(0, choices - max(0, version.lane.free_places()))
    if must_wait and versions.waiting() + must_wait > options.max_waiting:
        raise Overloaded(f"{versions.waiting()} answers are waiting already: try again in a second")
    max_tokens = wanted or min(room, options.default_max_tokens)
    return Completion(
        request, version, prompt, max_tokens,
        chat=base.chat, metrics=metrics, timeout_s=options.request_timeout_s,
    )  # fmt: skip


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
