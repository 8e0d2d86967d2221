"""What breaks beneath an engine: its thread, its disk, the files of a version, its reader, time itself."""

import asyncio
import contextlib
import json
import resource
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message

from inference.engine import app
from inference.engine.errors import TooSlow
from inference.engine.options import Options
from tests.inference.engine.conftest import KEY

pytestmark = pytest.mark.model
FIXED = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
HEADERS = {"Authorization": f"Bearer {KEY}"}


def body(**changes) -> dict[str, object]:
    messages = [{"role": "user", "content": "Hi"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 300, "ignore_eos": True, **changes}


@contextlib.asynccontextmanager
async def inside(tiny, tmp_path, **changes) -> AsyncIterator[tuple[Starlette, httpx.AsyncClient]]:
    """An engine in this process, so that a test can lay hands on its thread."""
    from inference.engine.app import build_app

    settings = {"served_name": "tiny", "artifacts_dir": tmp_path, "api_key": KEY, "dtype": "float32"}
    app = build_app(Options(model=tiny, **{**settings, **changes}), on_failure=lambda: None)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://engine", headers=HEADERS) as http,
    ):
        assert (await http.get("/health")).json() == {"status": "loading"}
        assert (await http.post("/v1/chat/completions", json=body())).json()["error"]["code"] == "loading"
        await until(http, "ok")
        yield app, http


async def until(http: httpx.AsyncClient, status: str) -> httpx.Response:
    """The first /health that says so."""
    async with asyncio.timeout(30):
        while (response := await http.get("/health")).json()["status"] != status:
            await asyncio.sleep(0.005)
    return response


async def made_some(lane) -> None:
    """Return when an answer has got its first tokens."""
    async with asyncio.timeout(10):
        while not any(generation.seen > 2 for generation in lane._running.values()):
            await asyncio.sleep(0.002)


def last_error(response: httpx.Response) -> str:
    assert "[DONE]" not in response.text
    return str(json.loads(response.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"])


def test_a_thread_that_dies_is_named_and_replaced(tiny, tmp_path):
    """The stream that was running ends with an error frame, the next request is answered."""

    async def scene() -> None:
        async with inside(tiny, tmp_path) as (app, http):
            lane = app.state.versions.get("tiny").lane
            running = asyncio.create_task(http.post("/v1/chat/completions", json=body(stream=True)))
            await made_some(lane)
            # A token beyond the vocabulary, which nothing outside can send, kills the thread.
            lane._manager.add_request([10**6], request_id="killer", max_new_tokens=1)
            health = await until(http, "degraded")
            assert (health.status_code, health.json()["dead"]) == (503, ["tiny"])
            assert last_error(await running) == "generation_failed"
            health = await until(http, "ok")
            assert (health.status_code, health.json()["restarts"]) == (200, {"tiny": 1})
            answer = await http.post("/v1/chat/completions", json=body())
            assert answer.json()["usage"]["completion_tokens"] == 300
            assert 'restarts_total{model_name="tiny"} 1.0' in (await http.get("/metrics")).text

    asyncio.run(scene())


def test_each_deadline_is_its_own_and_a_stuck_thread_is_named(tiny, tmp_path):
    """Whoever holds all turns at the cores stops the thread in the middle of a step."""

    async def scene() -> None:
        limits = {"first_token_timeout_s": 1.5, "gap_timeout_s": 1}
        async with inside(tiny, tmp_path, **limits) as (app, http):
            versions = app.state.versions
            lane, turns = versions.get("tiny").lane, versions._maker._turns
            with turns:
                began = time.monotonic()
                answer = await http.post("/v1/chat/completions", json=body())
                assert answer.status_code == 504
                assert "first token" in answer.json()["error"]["message"]
                assert time.monotonic() - began >= 1.5
                health = await until(http, "degraded")
                assert (health.status_code, health.json()["stuck"]) == (503, ["tiny"])
            await until(http, "ok")
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=body(stream=True)))
            await made_some(lane)
            with turns:
                answer = await asking
                assert last_error(answer) == "deadline_exceeded"
                assert "further token" in answer.text
            answer = await http.post("/v1/chat/completions", json=body(max_tokens=5))
            assert answer.json()["usage"]["completion_tokens"] == 5

    asyncio.run(scene())


def test_a_reader_that_neither_reads_nor_leaves_is_dropped(tiny, tmp_path):
    """Its answer is made to the end meanwhile, which frees the place; then the request itself ends."""

    async def scene() -> None:
        async with inside(tiny, tmp_path, request_timeout_s=3, max_open=1) as (app, http):
            said: list[Message] = [{"type": "http.request", "body": json.dumps(body(stream=True)).encode()}]

            async def receive() -> Message:
                if not said:
                    await asyncio.Event().wait()
                return said.pop()

            async def send(message: Message) -> None:
                if message["type"] == "http.response.body":
                    await asyncio.Event().wait()

            headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
            reading = asyncio.create_task(app({**scope, "query_string": b""}, receive, send))
            await made_some(app.state.versions.get("tiny").lane)
            assert (await http.post("/v1/chat/completions", json=body())).status_code == 429
            await asyncio.wait_for(reading, 30)
            assert (await http.post("/v1/chat/completions", json=body(max_tokens=3))).status_code == 200

    asyncio.run(scene())


def test_an_answer_that_takes_too_long_is_given_up(tiny, tmp_path):
    """Whole or streamed, it ends with the same error, and what waits behind it is given up as well."""

    async def scene() -> None:
        async with inside(tiny, tmp_path, request_timeout_s=0.3, max_running=1) as (app, http):
            long = body(n=8, max_tokens=440)
            whole = await http.post("/v1/chat/completions", json=long)
            assert (whole.status_code, whole.json()["error"]["code"]) == (504, "deadline_exceeded")
            streamed = await http.post("/v1/chat/completions", json={**long, "stream": True})
            assert last_error(streamed) == "deadline_exceeded"
            lane = app.state.versions.get("tiny").lane
            assert (lane.running, lane.waiting) == (0, 0)

    asyncio.run(scene())


def test_a_version_outlives_its_folder(engine, adapter):
    """Its weights are in memory; only a new load needs the files."""
    assert engine.load("kept", adapter.name).status_code == 200
    before = engine.text(**FIXED, model="kept")
    shutil.rmtree(adapter)
    assert engine.text(**FIXED, model="kept") == before
    assert engine.load("kept", adapter.name).json()["error"]["code"] == "no_such_adapter"
    assert engine.text(**FIXED, model="kept") == before
    assert engine.unload("kept").status_code == 200
    assert engine.load("kept", adapter.name).status_code == 404


def test_a_full_disk_stops_no_load(narrow):
    """Loading only reads: it works where no file may grow by a byte."""
    process = narrow.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        assert narrow.load("v1").status_code == 200
        assert narrow.text(**FIXED, model="v1")
        assert narrow.unload("v1").status_code == 200
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("left", [0, 1000])
def test_a_file_that_a_full_disk_cut_short_is_refused(engine, adapter, left):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    response = engine.load("short", adapter.name)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_artifact")
    assert engine.names() == {"tiny"}


def test_an_engine_that_was_frozen_goes_on(narrow):
    """Stopped for longer than a deadline: what was running is given up, the next is answered."""
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(narrow.chat(n=3, max_tokens=440, ignore_eos=True))
    )
    asking.start()
    while not narrow.card()["ratchet"]["running"]:
        time.sleep(0.005)
    narrow.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(httpx.TimeoutException):
            httpx.get(f"{narrow.url}/health", timeout=0.3)
        time.sleep(8)
    finally:
        narrow.process.send_signal(signal.SIGCONT)
    asking.join()
    assert answers[0].status_code == 504
    assert narrow.http.get("/health").json() == {"status": "ok"}
    assert narrow.chat(**FIXED).json()["usage"]["completion_tokens"] == 24


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(app, "BODY_TIMEOUT_S", 0.05)

    async def never() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, never)
    with pytest.raises(TooSlow) as refused:
        asyncio.run(app._read_body(request, 1000))
    assert (refused.value.status, refused.value.code) == (408, "body_timeout")
