"""`python -m bench._stub_engine engine PORT` makes 10 tokens a second in each stream, without a model
(`STUB_RATE` for more);
`proxy PORT ENGINE_URL` passes such streams on and does nothing else: the least that a relay can cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

GAP_S = 1 / float(os.environ.get("STUB_RATE", "10"))


async def health(request: Request) -> Response:
    return Response()


async def models(request: Request) -> Response:
    name = os.environ.get("ENGINE_SERVED_NAME", "base")
    return JSONResponse({"object": "list", "data": [{"id": name, "parent": None}]})


async def chat(request: Request) -> Response:
    body = await request.json()
    return StreamingResponse(frames(body["model"], body["max_tokens"]), media_type="text/event-stream")


async def frames(model: str, count: int) -> AsyncIterator[bytes]:
    yield frame(model, {"role": "assistant", "content": ""})
    began = time.monotonic()
    for number in range(count):
        yield frame(model, {"content": f"word{number} "})
        # By the clock, so that a late token does not push the next ones back.
        await asyncio.sleep(max(0.0, began + (number + 1) * GAP_S - time.monotonic()))
    yield frame(model, {}, "length")
    usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": count + 5}
    yield b"data: " + json.dumps({"model": model, "choices": [], "usage": usage}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def frame(model: str, delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"model": model, "choices": [choice]}).encode() + b"\n\n"


def proxy(engine_url: str) -> Starlette:
    http = httpx.AsyncClient(
        base_url=engine_url, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=None)
    )

    async def relay(request: Request) -> Response:
        asked = http.build_request("POST", "/v1/chat/completions", content=await request.body())
        answer = await http.send(asked, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    return Starlette(
        routes=[Route("/health", health), Route("/v1/chat/completions", relay, methods=["POST"])]
    )


def main() -> int:
    kind, port, *rest = sys.argv[1:]
    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    app = proxy(*rest) if kind == "proxy" else Starlette(routes=routes)
    uvicorn.run(app, port=int(port), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
