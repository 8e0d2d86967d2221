"""Streams of /v1/chat/completions, watched from outside.

The client is written on bare sockets: on two cores a comfortable one would
take its share of what it measures.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from demo.stack import ROOT

Json = dict[str, Any]


@dataclass
class Target:
    """Whom to ask, with which key, for which model. `extra` goes into each body."""

    url: str
    key: str
    model: str
    extra: Json = field(default_factory=dict)


@dataclass
class Seen:
    """One stream. Times are seconds of time.monotonic()."""

    started: float
    admitted: float | None = None  # the headers came
    times: list[float] = field(default_factory=list)  # of each chunk with text
    ended: float = 0.0
    tokens: int = 0  # as the server counted them, else chunks
    models: set[str] = field(default_factory=set)  # every `model` that a chunk named
    finish: str = ""
    error: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.error and self.finish in ("stop", "length")

    @property
    def ttft_ms(self) -> float:
        return (self.times[0] - self.started) * 1000 if self.times else math.inf

    @property
    def gaps_ms(self) -> list[float]:
        return [(after - before) * 1000 for before, after in pairwise(self.times)]


async def stream(target: Target, question: str, *, max_tokens: int, **sampling: Any) -> Seen:
    """One answer. Never raises for what a server can do wrong: it is in `error`."""
    seen = Seen(started=time.monotonic())
    body = {
        "model": target.model,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        **sampling,
        **target.extra,
    }
    try:
        async with asyncio.timeout(300):
            await _exchange(target, json.dumps(body).encode(), seen)
    except (OSError, ValueError, EOFError, TimeoutError) as error:
        seen.error = f"{type(error).__name__}: {error}"
    seen.ended = time.monotonic()
    return seen


async def _exchange(target: Target, body: bytes, seen: Seen) -> None:
    place = urlsplit(target.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**20)
    try:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n"
            f"Authorization: Bearer {target.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        headers = (await reader.readuntil(b"\r\n\r\n")).lower()
        seen.admitted = time.monotonic()
        status = int(headers.split(b" ", 2)[1])
        if status != 200 or b"transfer-encoding: chunked" not in headers:
            seen.error = f"HTTP {status}: {(await reader.read(300)).decode(errors='replace')}"
            return
        left = b""
        while size := int(await reader.readline(), 16):
            *events, left = (left + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
            now = time.monotonic()
            for event in events:
                if event.startswith(b"data: {"):
                    _take(seen, json.loads(event[6:]), now)
    finally:
        writer.close()


def _take(seen: Seen, event: Json, now: float) -> None:
    if "error" in event:
        seen.error = str(event["error"])
        return
    seen.models.add(event.get("model", ""))
    for choice in event["choices"]:
        if choice["delta"].get("content"):
            seen.times.append(now)
        seen.finish = choice.get("finish_reason") or seen.finish
    seen.tokens = (event.get("usage") or {}).get("completion_tokens") or max(seen.tokens, len(seen.times))


async def arriving(
    target: Target,
    questions: Sequence[str],
    arrivals: Sequence[float],
    *,
    max_tokens: int | Sequence[int],
    **sampling: Any,
) -> list[Seen]:
    """Each question at its arrival, in seconds from now; all zero is a burst."""
    lengths = [max_tokens] * len(questions) if isinstance(max_tokens, int) else max_tokens

    async def one(question: str, at: float, length: int) -> Seen:
        await asyncio.sleep(at)
        return await stream(target, question, max_tokens=length, **sampling)

    all_of_them = zip(questions, arrivals, lengths, strict=True)
    return list(await asyncio.gather(*(one(*each) for each in all_of_them)))


class Clients:
    """So many clients that ask again as soon as they are answered, until they are stopped."""

    def __init__(self, target: Target, questions: Sequence[str], count: int, **sampling: Any) -> None:
        self.seen: list[Seen] = []
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._keep_asking(target, questions[number:] + questions[:number], sampling))
            for number in range(count)
        ]

    async def _keep_asking(self, target: Target, questions: Sequence[str], sampling: Json) -> None:
        turn = 0
        while not self._stopping:
            self.seen.append(await stream(target, questions[turn % len(questions)], **sampling))
            turn += 1
            if self.seen[-1].error:
                await asyncio.sleep(0.5)  # a server that is away must not turn this into a flood

    async def stop(self) -> list[Seen]:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return self.seen


def rate(seen: Sequence[Seen]) -> float:
    """Tokens a second of all together, from the first request to the last token."""
    return sum(s.tokens for s in seen) / (max(s.ended for s in seen) - min(s.started for s in seen))


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def questions() -> list[str]:
    """The demo's prompts, in their order."""
    lines = (ROOT / "demo" / "prompts.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
