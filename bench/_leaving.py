"""How soon a client that leaves frees its place at the engine, by the engine's own count."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import urlsplit

import httpx

from bench._load import Target

ASKED_TOKENS = 200


async def milliseconds_to_free(target: Target, engine: Target, question: str, times: int = 8) -> list[float]:
    """Leave a stream of `target` after its first tokens, so often; the engine must be idle otherwise.

    `question` needs a long answer: one that ends by itself meanwhile is asked again.
    """
    took: list[float] = []
    headers = {"Authorization": f"Bearer {engine.key}"}
    async with httpx.AsyncClient(base_url=engine.url, headers=headers, trust_env=False) as http:
        for _ in range(3 * times):
            writer = await _begin(target, question)
            held = await _running(http, engine.model)
            left = time.monotonic()
            writer.transport.abort()
            while await _running(http, engine.model):
                await asyncio.sleep(0.002)
            took += [(time.monotonic() - left) * 1000] if held else []
            if len(took) == times:
                break
    return took


async def _begin(target: Target, question: str) -> asyncio.StreamWriter:
    """A stream that has said its first words."""
    place = urlsplit(target.url)
    body = json.dumps(
        {
            "model": target.model,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "max_tokens": ASKED_TOKENS,
            "temperature": 0.0,
        }
    ).encode()
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Authorization: Bearer {target.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    for _ in range(4):
        await reader.readuntil(b"data: ")
    return writer


async def _running(http: httpx.AsyncClient, model: str) -> int:
    cards = (await http.get("/v1/models")).json()["data"]
    return int(next(card["ratchet"]["running"] for card in cards if card["id"] == model))
