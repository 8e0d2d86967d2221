"""inference/client.py, the one client that we have, speaks to the engine under test."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from django.conf import settings

from inference.client import (
    EngineClient,
    EngineRefused,
    EngineUnavailable,
    ModelMissing,
    Piece,
    Usage,
    chat_body,
    open_stream,
)
from tests.conformance.conftest import FIXED, USER, Target

pytestmark = pytest.mark.model


@pytest.fixture
def client(target: Target) -> EngineClient:
    return EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY)


def test_healthy_with_cards(target: Target, client: EngineClient, adapters: list[Path]) -> None:
    assert client.is_healthy()
    client.load("kitchen-v2", str(adapters[0]))
    cards = client.models()
    assert set(cards) == {target.base, "kitchen-v2"}
    assert (cards[target.base].is_base, cards["kitchen-v2"].is_base) == (True, False)
    assert cards["kitchen-v2"].root == str(adapters[0])
    client.unload("kitchen-v2")
    assert set(client.models()) == {target.base}
    with pytest.raises(ModelMissing):
        client.unload("kitchen-v2")


def test_a_whole_answer_with_its_times(target: Target, client: EngineClient) -> None:
    began = time.monotonic()
    answer = client.complete(model=target.base, messages=USER, sampling=FIXED)
    elapsed = (time.monotonic() - began) * 1000
    assert answer.text == target.text()
    assert (answer.finish_reason, answer.tokens_out) == ("length", 16)
    assert answer.tokens_in == target.whole(**FIXED)["usage"]["prompt_tokens"]
    assert answer.ttft_ms is not None
    assert 0 < answer.ttft_ms <= answer.total_ms <= elapsed
    assert 4 < len(answer.gaps_ms) < 16
    with pytest.raises(ModelMissing):
        client.complete(model="kitchen-v9", messages=USER, sampling=FIXED)
    with pytest.raises(EngineRefused):
        client.complete(model=target.base, messages=USER, sampling={"temperature": 3.0})


def test_a_wrong_key(target: Target) -> None:
    stranger = EngineClient(settings.ENGINE_URLS[0], api_key="wrong")
    with pytest.raises(EngineUnavailable, match="ENGINE_API_KEY"):
        stranger.models()


@pytest.mark.parametrize("temperature", [0, 1.0], ids=["greedy", "random"])
def test_streams_of_several_choices(target: Target, client: EngineClient, temperature: float) -> None:
    """As the web asks: pieces of each choice, a finish for each, one usage for all; greedy ones are alike."""
    sampling = {**FIXED, "temperature": temperature}

    async def read() -> list[Piece | Usage]:
        body = chat_body(model=target.base, messages=USER, sampling=sampling, n=3)
        async with (
            httpx.AsyncClient(trust_env=False) as http,
            open_stream(http, target.url, headers=client.headers, body=body, timeout=30) as stream,
        ):
            return [event async for event in stream]

    *pieces, usage = asyncio.run(read())
    assert isinstance(usage, Usage)
    assert usage.tokens_out == 48
    texts, finishes = dict.fromkeys(range(3), ""), {}
    for piece in pieces:
        assert isinstance(piece, Piece)
        texts[piece.index] += piece.text
        if piece.finish_reason:
            finishes[piece.index] = piece.finish_reason
    assert finishes == {0: "length", 1: "length", 2: "length"}
    assert set(texts.values()) == {target.text()} if temperature == 0 else len(set(texts.values())) == 3


def test_leaving_a_stream_ends_its_answer(target: Target, client: EngineClient) -> None:
    body = chat_body(
        model=target.base, messages=USER, sampling={**FIXED, "temperature": 1.0, "max_tokens": 440}, n=8
    )

    async def read(pieces: int) -> None:
        async with (
            httpx.AsyncClient(trust_env=False) as http,
            open_stream(http, target.url, headers=client.headers, body=body, timeout=30) as stream,
        ):
            async for _ in stream:
                pieces -= 1
                if pieces == 0:
                    break

    began = time.monotonic()
    asyncio.run(read(-1))
    to_the_end = time.monotonic() - began
    asyncio.run(read(1))
    assert target.seconds_until_idle() < to_the_end / 2
