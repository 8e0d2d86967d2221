"""An answer on the chat page belongs to the server: taken up again, stopped, and let go without a reader."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from django.test import AsyncClient, Client

from inference.models import Completion, Conversation, Prompt
from inference.relay import hub, start_answer, stop_answers
from projects.errors import Problem
from projects.offload import in_database
from tests.cast import Cast
from tests.inference.stub_engine import StubEngine

Stubs = tuple[StubEngine, StubEngine]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def bob(cast: Cast, stubs: Stubs, settings: Any) -> AsyncClient:
    """Bob at his browser; the engine is a stub, and patience is short."""
    settings.ENGINE_URLS = [stubs[0].url]
    settings.READERLESS_SECONDS = 0.4
    settings.TOKEN_GAP_SECONDS = 1.0
    return browser_of(cast.bob)


def browser_of(user: Any) -> AsyncClient:
    signed_in = Client()
    signed_in.force_login(user)
    client = AsyncClient()
    client.cookies = signed_in.cookies
    return client


def question(cast: Cast, part: str) -> Prompt:
    conversation = Conversation.objects.create(project=cast.project, owner=cast.bob)
    return cast.prompt(f"Please: {part}", split=None, conversation=conversation)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene on one event loop, which plays the server."""

    async def all_of_it() -> None:
        try:
            await scene()
        finally:
            await stop_answers()

    asyncio.run(all_of_it())


def url_of(completion_id: uuid.UUID, what: str = "stream") -> str:
    return f"/p/kitchen/completions/{completion_id}/{what}"


async def events(client: AsyncClient, completion_id: uuid.UUID, **headers: str) -> AsyncGenerator[Any, None]:
    """(name, data, id) of each event."""
    response: Any = await client.get(url_of(completion_id), headers=headers)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    try:
        async for frame in response.streaming_content:
            fields = dict(line.split(": ", 1) for line in frame.decode().strip().split("\n"))
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"]), fields.get("id")
    finally:
        response.close()


async def glance(
    client: AsyncClient, completion_id: uuid.UUID, characters: int, **headers: str
) -> tuple[str, str]:
    """Read at least so many characters and leave: the text, and the id of the last event."""
    text, last_id = "", ""
    async with aclosing(events(client, completion_id, **headers)) as seen:
        async for _, data, event_id in seen:
            text, last_id = text + data["text"], event_id
            if len(text) >= characters:
                break
    return text, last_id


def test_text_comes_and_then_it_can_be_rated(cast: Cast, bob: AsyncClient) -> None:
    prompt = question(cast, "say")

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        seen = [event async for event in events(bob, id_)]
        text = "".join(data["text"] for name, data, _ in seen if name == "delta")
        assert text == "word0 word1 word2 word3 "
        name, data, _ = seen[-1]
        row = await in_database(Completion.objects.get, id=id_)
        assert name == "done"
        assert data == {"state": "finished", "finish_reason": "stop", "tokens_out": 4, "ttft_ms": row.ttft_ms}
        assert (row.state, row.text, row.prompt_id) == ("finished", text, prompt.id)
        assert row.sampling == {"temperature": 0.8, "max_tokens": 256}
        again = [event async for event in events(bob, id_)]
        assert [event[0] for event in again] == ["delta", "done"], "from the row, all at once"
        assert again[0][1]["text"] == text

    play(scene)


def test_a_reload_takes_it_up_again(cast: Cast, bob: AsyncClient) -> None:
    prompt = question(cast, "slow")

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        first, _ = await glance(bob, id_, 20)
        await asyncio.sleep(0.1)
        second, last_id = await glance(bob, id_, 40)
        assert second.startswith(first), "everything so far, then what comes"
        assert int(last_id) == len(second)
        third, _ = await glance(bob, id_, 1, **{"Last-Event-ID": last_id})
        stopped = (await bob.post(url_of(id_, "stop"))).json()
        assert stopped["text"].startswith(second + third), "a browser that connects again goes on"

    play(scene)


def test_stop_keeps_the_text(cast: Cast, bob: AsyncClient, stubs: Stubs) -> None:
    prompt = question(cast, "slow")

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        reader = events(bob, id_)
        await anext(reader)
        stopped = (await bob.post(url_of(id_, "stop"))).json()
        assert stopped["state"] == "stopped"
        rest = [event async for event in reader]
        assert rest[-1][0] == "done"
        assert rest[-1][1]["state"] == "stopped"
        row = await in_database(Completion.objects.get, id=id_)
        assert (row.state, row.text, row.finish_reason) == ("stopped", stopped["text"], "cancelled")
        assert (await bob.post(url_of(id_, "stop"))).json() == stopped, "twice is no error"
        async with asyncio.timeout(10):  # the engine is told
            while stubs[0].running:
                await asyncio.sleep(0.02)

    play(scene)


def test_without_a_reader_it_ends(cast: Cast, bob: AsyncClient, settings: Any) -> None:
    settings.READERLESS_SECONDS = 1.5  # with room for a machine that has others to serve
    prompt = question(cast, "slow")

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        await glance(bob, id_, 1)
        await asyncio.sleep(0.9)
        assert hub().find(id_) is not None, "it goes on for a while"
        await glance(bob, id_, 1)
        await asyncio.sleep(0.9)
        assert hub().find(id_) is not None, "a reader who came back counts anew"
        began = time.monotonic()
        while hub().find(id_) is not None:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.02)
        assert (await in_database(Completion.objects.get, id=id_)).state == "stopped"

    play(scene)


def test_an_answer_that_breaks_off(cast: Cast, bob: AsyncClient) -> None:
    prompt = question(cast, "die")

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        for code in ("engine_failed", "answer_failed"):  # while it happens, and later from the row
            *before, (name, data, _) = [event async for event in events(bob, id_)]
            assert data["error"]["code"] == code
            assert "".join(data["text"] for _, data, _ in before) == "word0 word1 "
            assert (name, data["error"]["type"]) == ("error", "service_unavailable_error")
            assert data["error"]["message"].startswith("The answer broke off")
        assert (await in_database(Completion.objects.get, id=id_)).state == "failed"

    play(scene)


def test_what_is_stopped_before_its_first_token_is_nothing_to_judge(cast: Cast, bob: AsyncClient) -> None:
    prompt = question(cast, "silent")

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        assert (await bob.post(url_of(id_, "stop"))).json() == {"state": "failed", "text": ""}

    play(scene)


def test_a_refusal_writes_no_answer(cast: Cast, bob: AsyncClient) -> None:
    prompts = {part: question(cast, part) for part in ("busy", "starting", "refuse")}

    async def scene() -> None:
        for part, status in (("busy", 429), ("starting", 503), ("refuse", 400)):
            with pytest.raises(Problem) as raised:
                await start_answer(project=cast.project, prompt=prompts[part], sticky="x")
            assert raised.value.status == status
        assert not await in_database(Completion.objects.exists)

    play(scene)


def test_who_may_see_it(cast: Cast, bob: AsyncClient) -> None:
    mine = cast.answer(question(cast, "say"))
    outside = cast.answer(cast.prompt())
    carol, eve = browser_of(cast.carol), browser_of(cast.eve)

    async def scene() -> None:
        for client, completion, status in (
            (bob, mine, 200),
            (carol, mine, 404),  # a conversation is its owner's
            (carol, outside, 200),
            (eve, outside, 404),
            (AsyncClient(), outside, 404),
        ):
            for what in ("stream", "stop"):
                ask = client.get if what == "stream" else client.post
                response = await ask(url_of(completion.id, what))
                assert response.status_code == status, (what, completion)
        assert (await bob.get(url_of(uuid.uuid4()))).status_code == 404
        refused = await bob.get(url_of(mine.id, "stop"))
        assert (refused.status_code, refused["Allow"]) == (405, "POST")

    play(scene)


def test_an_answer_of_another_process_comes_from_its_row(cast: Cast, bob: AsyncClient) -> None:
    running = cast.answer(question(cast, "say"), state="running")

    async def scene() -> None:
        async def end_it() -> None:
            await asyncio.sleep(0.3)
            row = Completion.objects.filter(id=running.id)
            await in_database(row.update, state="finished", text="At last.")

        ending = asyncio.create_task(end_it())
        seen = [event async for event in events(bob, running.id)]
        await ending
        assert [name for name, _, _ in seen] == ["delta", "done"]
        assert seen[0][1] == {"text": "At last."}

    play(scene)


def test_stop_reaches_the_process_that_makes_it(cast: Cast, bob: AsyncClient, stubs: Stubs) -> None:
    """Two event loops have two hubs, as two web processes have."""
    prompt, there = question(cast, "slow"), browser_of(cast.bob)

    async def stop_there(id_: uuid.UUID) -> Any:
        assert hub().find(id_) is None, "it is made elsewhere"
        return await there.post(url_of(id_, "stop"))

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        reader = events(bob, id_)
        await anext(reader)
        other = start_answer(project=cast.project, prompt=prompt, sticky="y")
        untouched = hub().find(await other)
        assert untouched is not None
        stopped = await asyncio.to_thread(lambda: asyncio.run(stop_there(id_)))
        assert stopped.status_code == 200
        assert stopped.json()["state"] == "stopped"
        assert stopped.json()["text"].startswith("word0")
        rest = [event async for event in reader]
        assert rest[-1][1]["state"] == "stopped", "whoever reads along hears of it"
        assert not untouched.is_done, "and no other answer ends"

    play(scene)


def test_a_reader_at_another_process_keeps_it_going(cast: Cast, bob: AsyncClient, stubs: Stubs) -> None:
    prompt, there = question(cast, "slow"), browser_of(cast.bob)

    async def read_there(id_: uuid.UUID) -> list[Any]:
        assert hub().find(id_) is None, "it is made elsewhere"
        seen = []
        async for event in events(there, id_):
            seen.append(event)
            if len(seen) == 2 or event[0] != "delta":
                break
        return seen

    async def scene() -> None:
        id_ = await start_answer(project=cast.project, prompt=prompt, sticky="x")
        await glance(bob, id_, 1)  # and gone: nobody reads it here any more
        seen = await asyncio.to_thread(lambda: asyncio.run(read_there(id_)))
        assert [name for name, _, _ in seen] == ["delta", "delta"], "it grew long after its 0.4 s"
        assert hub().find(id_) is not None
        began = time.monotonic()
        while hub().find(id_) is not None:
            assert time.monotonic() - began < 20, "with that reader gone too it ends"
            await asyncio.sleep(0.02)
        assert (await in_database(Completion.objects.get, id=id_)).state == "stopped"

    play(scene)


def test_a_stop_of_a_dead_process_says_so(cast: Cast, bob: AsyncClient, monkeypatch: Any) -> None:
    running = cast.answer(question(cast, "say"), state="running")
    monkeypatch.setattr("inference.pages.STOP_SECONDS", 0.0)

    async def scene() -> None:
        refused = await bob.post(url_of(running.id, "stop"), headers={"Accept": "application/json"})
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "not_stopped_yet"
        assert "was told to stop it" in refused.content.decode()

    play(scene)


def test_an_answer_of_a_dead_process_is_lost(cast: Cast, bob: AsyncClient, settings: Any) -> None:
    running = cast.answer(question(cast, "say"), state="running")
    settings.ANSWER_SECONDS = 0.0

    async def scene() -> None:
        [(name, data, _)] = [event async for event in events(bob, running.id)]
        assert (name, data["error"]["code"]) == ("error", "answer_lost")

    play(scene)
