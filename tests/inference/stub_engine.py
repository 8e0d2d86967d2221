"""A stand-in for an engine, over HTTP, that misbehaves on demand: for faults that a real one will not show.

What it does is said by the last word of the question, such as `Please: die`; with two stubs, `A=busy B=say`
tells each its own part.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.services import free_port

REFUSALS = {"busy": 429, "refuse": 400, "absent": 404, "starting": 503, "broken": 500, "key": 401}


class Died(Exception):
    """Breaks the connection in the middle, as a process that is killed does."""


@dataclass
class StubEngine:
    """Runs in a thread of the test at `url`, counting what it sees."""

    name: str = "A"
    asked: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    is_numbering: bool = False  # no two answers are the same
    numbers: Iterator[int] = field(default_factory=count)

    def start(self) -> StubEngine:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        routes = [
            Route("/health", lambda request: Response()),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=port, log_level="critical")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(5)

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "base", "parent": None}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        part = self._part(body["messages"][-1]["content"])
        if part in REFUSALS:
            error = {"type": "x", "code": f"stub_{part}", "message": f"the stub is {part}", "param": None}
            return JSONResponse({"error": error}, status_code=REFUSALS[part])
        if part == "hang":
            await asyncio.sleep(30)
        return StreamingResponse(self._frames(part, body.get("n", 1)), media_type="text/event-stream")

    def _part(self, question: str) -> str:
        words = question.split()
        mine = [word.partition("=")[2] for word in words if word.startswith(f"{self.name}=")]
        return mine[0] if mine else words[-1]

    async def _frames(self, part: str, n: int) -> AsyncIterator[str]:
        self.running += 1
        try:
            async for frame in self._part_frames(part, n):
                yield frame
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _part_frames(self, part: str, n: int) -> AsyncIterator[str]:
        yield _chunk(0, {"role": "assistant", "content": ""})
        if part == "mute":
            raise Died
        if part == "silent":
            await asyncio.sleep(30)
        if part == "line":  # a line that never ends
            for _ in range(100):
                yield "data: " + "x" * 100_000
                await asyncio.sleep(0)
        if part in ("long", "flood"):
            for _ in range(150 if part == "long" else 100_000):
                yield _chunk(0, {"content": "x" * 1000})
                await asyncio.sleep(0)
        words = 400 if part == "slow" else 4
        if self.is_numbering:
            yield _chunk(0, {"content": f"Answer {next(self.numbers)}: "})
        for place in range(words):
            if part == "slow":
                await asyncio.sleep(0.05)
            for index in range(n):
                yield _chunk(index, {"content": f"word{place} "})
            if place == 1 and part == "die":
                await asyncio.sleep(0.2)
                raise Died
            if place == 1 and part == "stall":
                await asyncio.sleep(30)
            if place == 1 and part == "fail":
                yield "data: " + json.dumps({"error": {"message": "out of luck", "code": "luck"}}) + "\n\n"
                return
            if place == 1 and part == "garbage":
                yield 'data: {"choices": [{"index": "zero"\n\n'
                return
            if place == 1 and part == "lies":
                yield _chunk(7, {"content": "for nobody"})
        if part != "endless":
            for index in range(n):
                yield _chunk(index, {}, "stop")
            usage = {"prompt_tokens": 5, "completion_tokens": words * n}
            yield "data: " + json.dumps({"choices": [], "usage": usage}) + "\n\n"
        yield "data: [DONE]\n\n"


def _chunk(index: int, delta: dict[str, str], finish: str | None = None) -> str:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return "data: " + json.dumps({"choices": [choice]}) + "\n\n"
