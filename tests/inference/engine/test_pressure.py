"""Too many requests, too long ones, and clients that leave."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from tests.inference.engine.conftest import KEY

pytestmark = pytest.mark.model
LONG = {
    "model": "tiny",
    "max_tokens": 400,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "Hi"}],
}


def client(engine) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=engine.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)


def load_of(engine) -> tuple[int, int]:
    state = engine.card()["ratchet"]
    return state["running"], state["waiting"]


def cancelled(engine) -> float:
    lines = engine.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("ratchet_engine_cancelled_total"))


def until(condition) -> None:
    """Return when the condition holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(engine, stream):
    before = cancelled(engine)

    async def leave() -> None:
        async with client(engine) as http:
            asking = asyncio.create_task(http.post("/v1/chat/completions", json={**LONG, "stream": stream}))
            while load_of(engine)[0] == 0:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.wait([asking])

    asyncio.run(leave())
    until(lambda: load_of(engine) == (0, 0))
    assert cancelled(engine) == before + 1


def test_a_client_that_leaves_the_queue_frees_its_place(narrow):
    async def leave() -> None:
        async with client(narrow) as http:
            # Not so long that it is given up (after 8 s) where the machine is busy.
            first = asyncio.create_task(http.post("/v1/chat/completions", json={**LONG, "max_tokens": 200}))
            while load_of(narrow)[0] == 0:
                await asyncio.sleep(0.005)
            second = asyncio.create_task(http.post("/v1/chat/completions", json=LONG))
            while load_of(narrow)[1] == 0:
                await asyncio.sleep(0.005)
            second.cancel()
            await asyncio.wait([second])
            until(lambda: load_of(narrow)[1] == 0)
            assert load_of(narrow)[0] == 1, "the first goes on"
            assert (await first).status_code == 200

    asyncio.run(leave())


def test_a_stop_string_frees_its_place(engine):
    whole = engine.text(temperature=0, max_tokens=40, ignore_eos=True)
    engine.text(temperature=0, max_tokens=400, ignore_eos=True, stop=whole[4:7])
    assert load_of(engine) == (0, 0)


def test_more_than_may_wait_are_refused(narrow):
    async def crowd() -> list[httpx.Response]:
        async with client(narrow) as http:
            body = {**LONG, "max_tokens": 60}
            return await asyncio.gather(*[http.post("/v1/chat/completions", json=body) for _ in range(8)])

    responses = asyncio.run(crowd())
    assert {response.status_code for response in responses} == {200, 429}
    refused = [response for response in responses if response.status_code == 429]
    assert 3 <= len(refused) <= 5  # one runs, two wait; the first may have ended before the last came
    assert refused[0].headers["Retry-After"] == "1"
    assert refused[0].json()["error"]["code"] == "overloaded"
    assert narrow.chat(n=8).status_code == 429
    assert load_of(narrow) == (0, 0)


def test_tokens_that_wait_are_bounded(narrow):
    """One runs; two may wait, with 1,000 tokens at most, prompts included."""

    async def crowd() -> list[httpx.Response]:
        async with client(narrow) as http:
            asked: list[asyncio.Task[httpx.Response]] = []
            short = await http.post("/v1/chat/completions", json={**LONG, "max_tokens": 1})
            size = 505 - short.json()["usage"]["prompt_tokens"]
            for _ in range(3):
                asking = http.post("/v1/chat/completions", json={**LONG, "max_tokens": size})
                asked.append(asyncio.create_task(asking))
                while sum(load_of(narrow)) < len(asked) and not asked[-1].done():
                    await asyncio.sleep(0.002)
            return await asyncio.gather(*asked)

    responses = asyncio.run(crowd())
    assert {responses[0].status_code, responses[1].status_code} <= {200, 504}
    assert responses[2].status_code == 429
    assert "tokens" in responses[2].json()["error"]["message"]
    assert responses[2].headers["Retry-After"] == "1"


def test_an_idle_engine_takes_no_processor_time(engine):
    """Four versions wait here; a thread that polled without a pause would take a core."""
    loaded = [name for name in ("v1", "v2", "v3") if engine.load(name).status_code == 200]
    assert len(loaded) == 3

    def seconds() -> float:
        fields = Path(f"/proc/{engine.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    before = seconds()
    time.sleep(1)
    spent = seconds() - before
    for name in loaded:
        engine.unload(name)
    assert spent < 0.2
