"""One set of tests of the engine's dialect, over HTTP alone. Our engine and a real vLLM must both pass it.

It asks for what inference/client.py relies on. Where the two legitimately differ (a status among the 4xx, who
says it first, what stands beside it), it asks for what both promise, and no more.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from tests.inference.adapters import build_adapter
from tests.processes import Process

USER = [{"role": "user", "content": "Why is the sky blue?"}]
# Greedy, and as long as it is told to be: a random model seldom ends by itself.
FIXED: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "ignore_eos": True}


@dataclass(frozen=True)
class Target:
    """An engine at an address: `base` is the name of its base model."""

    http: httpx.Client
    base: str

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def chat(self, model: str | None = None, **body: Any) -> httpx.Response:
        """What is asked, unless `body` says otherwise: one question, of the base."""
        return self.http.post(
            "/v1/chat/completions", json={"model": model or self.base, "messages": USER, **body}
        )

    def whole(self, model: str | None = None, **body: Any) -> dict[str, Any]:
        response = self.chat(model, **body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def text(self, model: str | None = None, **body: Any) -> str:
        return str(self.whole(model, **{**FIXED, **body})["choices"][0]["message"]["content"])

    def stream(self, model: str | None = None, **body: Any) -> list[dict[str, Any]]:
        """The chunks of a whole stream, which must be framed as server-sent events and end with [DONE]."""
        response = self.chat(model, stream=True, **body)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        *events, rest = response.text.split("\n\n")
        assert rest == ""
        assert all(event.startswith("data: ") for event in events)
        assert events.pop() == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]

    def load(self, name: str, folder: Path) -> httpx.Response:
        return self.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})

    def unload(self, name: str) -> httpx.Response:
        return self.http.post("/v1/unload_lora_adapter", json={"lora_name": name})

    def cards(self) -> dict[str, dict[str, Any]]:
        return {card["id"]: card for card in self.http.get("/v1/models").json()["data"]}

    def seconds_until_idle(self) -> float:
        """How long it goes on working from now; 30 s at most."""
        began = time.monotonic()
        while self.metric("vllm:num_requests_running") and time.monotonic() < began + 30:
            time.sleep(0.01)
        return time.monotonic() - began

    def metric(self, name: str) -> float:
        """The sum of a metric's series, as a scraper sees it."""
        series = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", self.http.get("/metrics").text, re.M)
        return sum(map(float, series))


@pytest.fixture
def target(engine: Process) -> Iterator[Target]:
    """The engine under test, without what earlier tests loaded into it."""
    headers = {"Authorization": f"Bearer {settings.ENGINE_API_KEY}"}
    url = settings.ENGINE_URLS[0]
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        target = Target(http, settings.ENGINE_SERVED_NAME)
        for name in target.cards():
            if name != target.base:
                assert target.unload(name).status_code == 200
        yield target


@pytest.fixture(scope="session")
def adapters() -> list[Path]:
    """Three real LoRA adapters of the tiny model, in folders that the engine may read."""
    home = Path(settings.ARTIFACTS_DIR) / "conformance"
    return [build_adapter(home / f"adapter-{seed}", seed=seed) for seed in (1, 2, 3)]


def texts_of(chunks: list[dict[str, Any]]) -> dict[int, str]:
    """The text of each choice, put together."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            text = choice["delta"].get("content") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + text
    return texts


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of all calls, each made in a thread of its own."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]
