"""Real engines on a tiny model: one with its defaults, one with room for a single answer at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.tiny import build_tiny_adapter, build_tiny_model

KEY = "engine-key"
ROOT = Path(__file__).parents[3]


@dataclass
class Engine:
    """A running engine, and a client that has its key."""

    http: httpx.Client
    process: subprocess.Popen[bytes]
    artifacts: Path
    seen: list[int]  # what /health said until it said 200

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def chat(self, **body) -> httpx.Response:
        body.setdefault("model", "tiny")
        body.setdefault("messages", [{"role": "user", "content": "Why is the sky blue?"}])
        return self.http.post("/v1/chat/completions", json=body)

    def text(self, **body) -> str:
        response = self.chat(**body)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def stream(self, **body) -> list[dict[str, Any]]:
        """The frames of a whole stream; the last must be [DONE]."""
        response = self.chat(stream=True, **body)
        assert response.status_code == 200, response.text
        frames = frames_of(response.text)
        assert frames.pop() == "[DONE]"
        return [json.loads(frame) for frame in frames]

    def load(self, name: str, path: str | None = None, **more) -> httpx.Response:
        body = {"lora_name": name, "lora_path": path or name, **more}
        return self.http.post("/v1/load_lora_adapter", json=body)

    def unload(self, name: str) -> httpx.Response:
        return self.http.post("/v1/unload_lora_adapter", json={"lora_name": name})

    def card(self, name: str = "tiny") -> dict[str, Any]:
        return next(card for card in self.http.get("/v1/models").json()["data"] if card["id"] == name)

    def names(self) -> set[str]:
        return {card["id"] for card in self.http.get("/v1/models").json()["data"]}


def frames_of(text: str) -> list[str]:
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part.removeprefix("data: ") for part in parts]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return build_tiny_model(Path(tmp_path_factory.mktemp("tiny")) / "model")


@pytest.fixture(scope="session")
def artifacts(tiny, tmp_path_factory) -> Path:
    """Adapters v1, v2 and v3; and faint, whose update bf16 would destroy."""
    folder = Path(tmp_path_factory.mktemp("artifacts"))
    for seed in (1, 2, 3):
        build_tiny_adapter(folder / f"v{seed}", tiny, seed=seed)
    build_tiny_adapter(folder / "faint", tiny, seed=4, size=3e-4)
    return folder


def start(tiny: Path, artifacts: Path, *flags: str) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "inference.engine", "--model", str(tiny), "--served-name", "tiny"]
    guard = ["setpriv", "--pdeathsig=KILL", "--"]  # the kernel ends it with us, also where a test fails
    process = subprocess.Popen(
        [*guard, *command, "--artifacts-dir", str(artifacts), "--port", str(port), *flags],
        cwd=ROOT,
        env={**os.environ, "ENGINE_API_KEY": KEY, "ENGINE_API_KEY_FILE": "", "ENGINE_THREADS": "1"},
    )
    return process, port


@pytest.fixture(scope="session")
def processes(tiny, artifacts) -> Iterator[dict[str, tuple[subprocess.Popen[bytes], int]]]:
    """Both engines, started together because starting takes most of its time in imports."""
    narrow = ("--max-running", "1", "--max-waiting", "2", "--request-timeout", "8", "--dtype", "float32")
    running = {
        "wide": start(tiny, artifacts),
        "narrow": start(tiny, artifacts, *narrow, "--memory-gb", "0.0023", "--max-waiting-tokens", "1000"),
    }
    yield running
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        process.wait(10)


def connect(processes, name: str, artifacts: Path) -> Iterator[Engine]:
    process, port = processes[name]
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as http:
        end = time.monotonic() + 180  # a busy machine imports torch slowly
        seen: list[int] = []
        while 200 not in seen:
            assert process.poll() is None, "the engine ended while it started"
            assert time.monotonic() < end, "the engine did not become ready"
            with contextlib.suppress(httpx.ConnectError):
                seen.append(http.get("/health").status_code)
            time.sleep(0.05)
        yield Engine(http, process, artifacts, seen)


@pytest.fixture(scope="session")
def engine(processes, artifacts) -> Iterator[Engine]:
    yield from connect(processes, "wide", artifacts)


@pytest.fixture(scope="session")
def narrow(processes, artifacts) -> Iterator[Engine]:
    """Makes one answer at a time, lets two wait, gives up after eight seconds; memory for two adapters."""
    yield from connect(processes, "narrow", artifacts)


@pytest.fixture
def adapter(artifacts, request) -> Iterator[Path]:
    """A copy of v1 to spoil, gone after the test."""
    folder = artifacts / f"copy-{request.node.name.split('[')[0]}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifacts / "v1", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def loaded(engine) -> Iterator[str]:
    """v1, served; not afterwards."""
    assert engine.load("v1").status_code == 200
    yield "v1"
    engine.unload("v1")
