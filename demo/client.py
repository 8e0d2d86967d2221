"""The demo's only way in: REST and the OpenAI protocol, with a key like any client's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Self, cast

import httpx

Json = dict[str, Any]


class DemoError(Exception):
    """The demo cannot go on; the message says why, for the person at the terminal."""


@dataclass
class Stream:
    """What a client saw of one streamed answer. Times are seconds of time.monotonic()."""

    started: float
    admitted: float | None = None  # the response's headers arrived, naming the version
    first_token: float | None = None
    admitted_version: str = ""
    versions: set[str] = field(default_factory=set)  # every `model` that a chunk named
    text: str = ""
    finish_reason: str = ""
    error: str = ""

    @property
    def ttft_ms(self) -> float | None:
        return None if self.first_token is None else (self.first_token - self.started) * 1000

    @property
    def is_ok(self) -> bool:
        return not self.error and self.finish_reason in {"stop", "length"}


class Client:
    """A program with an API key of the demo's project."""

    def __init__(self, base_url: str, key: str) -> None:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        self.http = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(600, connect=10),
            limits=limits,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def get(self, path: str, **params: Any) -> Json:
        return _answer(await self.http.get(f"/api/v1/{path}", params=params))

    async def post(self, path: str, body: Json) -> Json:
        return _answer(await self.http.post(f"/api/v1/{path}", json=body))

    async def items(self, path: str, **params: Any) -> list[Json]:
        """Every item of a list, page by page."""
        found: list[Json] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self.get(path, **params, limit=200, **({"cursor": cursor} if cursor else {}))
            found += page["items"]
            cursor = page["next"]
        return found

    async def post_prompts(self, prompts: Iterable[str]) -> Json:
        lines = [json.dumps({"messages": [{"role": "user", "content": text}]}) for text in prompts]
        answer = await self.http.post(
            "/api/v1/prompts",
            content="\n".join(lines).encode(),
            headers={"Content-Type": "application/x-ndjson"},
        )
        return _answer(answer)

    async def post_feedback(self, items: list[Json]) -> None:
        """All judgements, in batches. Raises DemoError when one is refused."""
        for start in range(0, len(items), 200):
            answer = await self.post("feedback/batch", {"items": items[start : start + 200]})
            for result in answer["results"]:
                if result["status"] not in (200, 201):
                    raise DemoError(f"a judgement was refused: {result}")

    async def complete(self, model: str, messages: list[Json], sampling: Json, n: int = 1) -> list[Json]:
        """`n` whole answers: [{"completion_id", "text", "finish_reason"}]."""
        body = {"model": model, "messages": messages, "n": n, **sampling}
        for attempt in range(6):
            response = await self.http.post("/v1/chat/completions", json=body)
            if response.status_code not in (429, 503) or attempt == 5:
                break
            await asyncio.sleep(float(response.headers.get("Retry-After", "1")))
        return [
            {
                "completion_id": choice["completion_id"],
                "text": choice["message"]["content"],
                "finish_reason": choice["finish_reason"],
            }
            for choice in _answer(response)["choices"]
        ]

    async def stream(self, model: str, messages: list[Json], sampling: Json) -> Stream:
        """One streamed answer, watched from outside. Never raises for what a server can do wrong."""
        seen = Stream(started=time.monotonic())
        body = {"model": model, "messages": messages, "stream": True, **sampling}
        try:
            async with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
                seen.admitted = time.monotonic()
                seen.admitted_version = response.headers.get("X-Ratchet-Version", "")
                if response.status_code != 200:
                    seen.error = f"HTTP {response.status_code}: {(await response.aread())[:200]!r}"
                    return seen
                async for event in _events(response):
                    if "error" in event:
                        seen.error = str(event["error"])
                        return seen
                    _take(seen, event)
        except (httpx.HTTPError, ValueError) as error:
            seen.error = f"{type(error).__name__}: {error}"
        return seen


def _take(seen: Stream, event: Json) -> None:
    seen.versions.add(event["model"])
    for choice in event["choices"]:
        text = choice["delta"].get("content") or ""
        if text and seen.first_token is None:
            seen.first_token = time.monotonic()
        seen.text += text
        seen.finish_reason = choice.get("finish_reason") or seen.finish_reason


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def _answer(response: httpx.Response) -> Json:
    if response.is_success:
        return cast(Json, response.json())
    raise DemoError(
        f"{response.request.method} {response.request.url.path}: {response.status_code} {response.text[:400]}"
    )
