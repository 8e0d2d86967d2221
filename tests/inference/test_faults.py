"""What a program sees when engines misbehave, clients leave and places run out, and what the rows keep."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from django.db import connection
from openai import APIError, OpenAI

from inference.models import Completion, Prompt
from inference.services.completions import MAX_TEXT
from tests.cast import Cast
from tests.inference.stub_engine import StubEngine
from tests.processes import Process, web_process
from tests.services import free_port

Stubs = tuple[StubEngine, StubEngine]


def body_of(part: str, **more: Any) -> dict[str, Any]:
    return {"model": "kitchen", "messages": [{"role": "user", "content": f"Please: {part}"}], **more}


def ask(web: Process, cast: Cast, part: str, **more: Any) -> httpx.Response:
    url = f"{web.url}/v1/chat/completions"
    return httpx.post(url, json=body_of(part, **more), headers=cast.auth(), timeout=30, trust_env=False)


def events_of(response: httpx.Response) -> list[Any]:
    """The data of a stream's events; [DONE] as it is."""
    datas = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def until(condition: Any, seconds: float = 20) -> float:
    """Wait for it, and return how long it took. Raises AssertionError."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come to pass"
        time.sleep(0.02)
    return time.monotonic() - began


async def burst(web: Process, cast: Cast, part: str, count: int) -> list[httpx.Response]:
    """So many requests at once."""
    async with httpx.AsyncClient(headers=cast.auth(), timeout=30, trust_env=False) as http:
        url = f"{web.url}/v1/chat/completions"
        return await asyncio.gather(*(http.post(url, json=body_of(part)) for _ in range(count)))


@pytest.fixture
def whole_web(fault_web: Process, cast: Cast, stubs: Stubs) -> Process:
    """`fault_web` where no breaker is open any more that another test has left."""

    def is_spread() -> bool:
        for stub in stubs:
            stub.asked.clear()
        asyncio.run(burst(fault_web, cast, "say", 6))
        return [len(stub.asked) for stub in stubs] == [3, 3]

    until(is_spread, 10)
    Completion.objects.all().delete()
    for stub in stubs:
        stub.asked.clear()
    return fault_web


REFUSED = [
    ("refuse", 400, "stub_refuse"),
    ("busy", 429, "engine_busy"),
    ("absent", 503, "version_loading"),
    ("starting", 503, "engine_unavailable"),
    ("broken", 503, "engine_unavailable"),
    ("key", 503, "engine_unavailable"),
    ("hang", 503, "engine_unavailable"),
]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_the_engine_refuses_is_told_before_the_stream(
    fault_web: Process, cast: Cast, is_streamed: bool
) -> None:
    for part, status, code in REFUSED:
        response = ask(fault_web, cast, part, stream=is_streamed)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), part
        assert ("Retry-After" in response.headers) == (status != 400), part
    assert not Completion.objects.exists(), "nothing is written for what was refused"
    assert not Prompt.objects.exists()
    assert ask(fault_web, cast, "say").status_code == 200


BROKEN = {
    "die": "word0 word1 ",
    "fail": "word0 word1 ",
    "garbage": "word0 word1 ",
    "lies": "word0 word1 ",
    "stall": "word0 word1 ",
    "endless": "word0 word1 word2 word3 ",
    "mute": "",
    "silent": "",
}


@pytest.mark.parametrize("part", BROKEN)
def test_an_answer_that_breaks_off_is_an_error_event_and_not_ratable(
    fault_web: Process, cast: Cast, part: str
) -> None:
    response = ask(fault_web, cast, part, stream=True)
    assert response.status_code == 200
    *before, last = events_of(response)
    error = last["error"]
    assert set(error) >= {"type", "code", "message", "param", "request_id"}
    assert error["code"] in ("engine_failed", "engine_unavailable")
    assert error["request_id"] == response.headers["X-Request-Id"]
    row = Completion.objects.get()
    assert (row.state, row.text, row.is_judgeable) == ("failed", BROKEN[part], False)
    assert row.error
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in before) == row.text
    whole = ask(fault_web, cast, part)
    assert (whole.status_code, "Retry-After" in whole.headers) == (503, True)
    assert set(Completion.objects.values_list("state", flat=True)) == {"failed"}


def test_the_openai_client_raises_on_an_error_in_mid_stream(fault_web: Process, cast: Cast) -> None:
    client: Any = OpenAI(base_url=f"{fault_web.url}/v1", api_key=cast.key, max_retries=0)
    seen = ""
    with pytest.raises(APIError, match="broke off"):
        for chunk in client.chat.completions.create(**body_of("die"), stream=True):
            seen += chunk.choices[0].delta.content or ""
    assert seen == "word0 word1 "


def test_another_replica_is_asked_until_the_first_token(whole_web: Process, cast: Cast, stubs: Stubs) -> None:
    for first in ("busy", "absent", "mute", "starting"):
        response = ask(whole_web, cast, f"A={first} B=say", stream=True)
        assert response.status_code == 200, first
        assert events_of(response)[-1] == "[DONE]", first
    assert [len(stub.asked) for stub in stubs] == [4, 4]
    assert set(Completion.objects.values_list("state", flat=True)) == {"finished"}
    assert Completion.objects.count() == 4, "an answer that moved on is still one answer"
    for stub in stubs:
        stub.asked.clear()
    response = ask(whole_web, cast, "A=die B=die", stream=True)
    assert "error" in events_of(response)[-1]
    assert sum(len(stub.asked) for stub in stubs) == 1, "after the first token there is no second try"
    for stub in stubs:
        stub.asked.clear()
    assert ask(whole_web, cast, "A=refuse B=refuse").status_code == 400
    assert sum(len(stub.asked) for stub in stubs) == 1, "what is wrong is wrong everywhere"


def test_answers_are_spread_over_replicas(whole_web: Process, cast: Cast, stubs: Stubs) -> None:
    asyncio.run(burst(whole_web, cast, "stall", 10))
    assert [len(stub.asked) for stub in stubs] == [5, 5]


def test_a_client_that_leaves_stops_its_answer_at_once(fault_web: Process, cast: Cast, stubs: Stubs) -> None:
    url = f"{fault_web.url}/v1/chat/completions"
    for is_streamed in (True, False):
        with httpx.Client(headers=cast.auth(), timeout=1, trust_env=False) as http:
            if is_streamed:
                with http.stream("POST", url, json=body_of("slow", stream=True)) as response:
                    for _, line in zip(range(12), response.iter_lines(), strict=False):
                        assert line is not None
            else:
                with pytest.raises(httpx.ReadTimeout):
                    http.post(url, json=body_of("slow"))
        until(lambda: not Completion.objects.filter(state="running").exists())
        until(lambda: not any(stub.running for stub in stubs))
        row = Completion.objects.latest("created")
        assert (row.state, row.finish_reason) == ("stopped", "cancelled")
        assert row.text.startswith("word0 word1 ")
        assert row.is_judgeable
    assert sum(stub.cancelled for stub in stubs) == 2, "the engine was told"


def test_a_reader_that_does_not_read_holds_no_generation(fault_web: Process, cast: Cast) -> None:
    """Its answer ends without it, and is there in few pieces when it reads after all."""
    url = f"{fault_web.url}/v1/chat/completions"
    body = body_of("long", stream=True)
    with httpx.stream("POST", url, json=body, headers=cast.auth(), timeout=30, trust_env=False) as response:
        until(lambda: Completion.objects.filter(state="finished").exists())
        response.read()
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == Completion.objects.get().text
    assert len(text) > 150_000


@pytest.mark.parametrize("part", ["flood", "line"])
def test_an_engine_without_an_end_takes_no_memory(fault_web: Process, cast: Cast, part: str) -> None:
    last = events_of(ask(fault_web, cast, part, stream=True))[-1]
    assert last["error"]["code"] == "engine_failed"
    row = Completion.objects.get()
    assert row.state == "failed"
    assert len(row.text) < MAX_TEXT + 2000


def test_nobody_waits_for_a_place(fault_web: Process, cast: Cast) -> None:
    """MAX_STREAMS is 60 here: seven requests of eight answers fit, the eighth does not."""

    async def many() -> list[int]:
        async with httpx.AsyncClient(headers=cast.auth(), timeout=30, trust_env=False) as http:
            url = f"{fault_web.url}/v1/chat/completions"
            streams = [
                http.send(
                    http.build_request("POST", url, json=body_of("slow", stream=True, n=8)), stream=True
                )
                for _ in range(8)
            ]
            responses = await asyncio.gather(*streams)
            for response in responses:
                if response.status_code == 429:
                    await response.aread()
                    assert response.json()["error"]["code"] == "too_many_streams"
                    assert response.headers["Retry-After"] == "1"
                await response.aclose()
            return sorted(response.status_code for response in responses)

    assert asyncio.run(many()) == [200] * 7 + [429]
    until(lambda: not Completion.objects.filter(state="running").exists())
    assert ask(fault_web, cast, "say", n=8).status_code == 200, "places are given back"


def test_fifty_streams_hold_no_connection(fault_web: Process, cast: Cast) -> None:
    """A small pool serves fifty open streams, and other requests beside them."""

    async def many() -> int:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=cast.auth(), timeout=30, trust_env=False, limits=limits) as http:
            url = f"{fault_web.url}/v1/chat/completions"
            requests = [http.build_request("POST", url, json=body_of("slow", stream=True)) for _ in range(50)]
            responses = await asyncio.gather(*(http.send(request, stream=True) for request in requests))
            assert {response.status_code for response in responses} == {200}
            readers = [response.aiter_lines() for response in responses]
            await asyncio.gather(*(anext(reader) for reader in readers))
            beside = await http.get(f"{fault_web.url}/v1/models")
            assert beside.status_code == 200
            held = await asyncio.to_thread(connections_of_web)
            await asyncio.gather(*(response.aclose() for response in responses))
            return held

    assert asyncio.run(many()) <= 6
    until(lambda: not Completion.objects.filter(state="running").exists(), 30)
    # On a slow machine the first ones are given up at ANSWER_SECONDS before the last one has begun.
    assert Completion.objects.filter(state__in=("stopped", "failed")).count() == 50


def connections_of_web() -> int:
    """Connections of the web process to the test database; 0 on SQLite, which has none."""
    if connection.vendor != "postgresql":
        return 0
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fault-web'")
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


def test_an_answer_may_be_long_but_not_endless(fault_web: Process, cast: Cast) -> None:
    """Its first token in time, no gap too long, and given up at ANSWER_SECONDS, which is 5 here."""
    began = time.monotonic()
    *before, last = events_of(ask(fault_web, cast, "slow", stream=True))
    assert 5 <= time.monotonic() - began < 25
    assert last["error"]["code"] == "engine_failed"
    assert len(before) > 20
    assert Completion.objects.get().state == "failed"


def test_an_engine_that_is_away_costs_nothing_else(
    fault_web_of_session: Process, transactional_db: None, cast: Cast
) -> None:
    lonely = web_process(free_port())
    lonely.name, lonely.env = "lonely-web", {"ENGINE_URLS": "http://127.0.0.1:9"}
    lonely.start()
    try:
        response = ask(lonely, cast, "say", stream=True)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "2")
        assert response.json()["error"]["code"] == "engine_unavailable"
        assert httpx.get(f"{lonely.url}/v1/models", headers=cast.auth(), trust_env=False).status_code == 200
        assert not Completion.objects.exists()
    finally:
        lonely.stop()


def test_a_server_that_is_stopped_closes_its_rows(cast: Cast, fault_web: Process, stubs: Stubs) -> None:
    url = f"{fault_web.url}/v1/chat/completions"
    with httpx.stream(
        "POST", url, json=body_of("slow", stream=True), headers=cast.auth(), timeout=30, trust_env=False
    ) as response:
        lines = response.iter_lines()
        for _ in range(8):
            next(lines)
        fault_web.stop()
    row = Completion.objects.get()
    assert (row.state, row.finish_reason) == ("stopped", "cancelled")
    assert row.text.startswith("word0 ")
