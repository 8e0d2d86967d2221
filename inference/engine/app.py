"""The engine's HTTP face: routes, the key, the size of bodies, and clients that leave."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from inference.artifact import ArtifactError
from inference.engine.admission import Admission
from inference.engine.completions import Completion
from inference.engine.errors import EngineError, InvalidRequest, TooLarge, TooSlow, Unauthorized
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.protocol import ChatRequest, LoadRequest, UnloadRequest, parse
from inference.engine.versions import Versions

log = logging.getLogger("ratchet.engine")
BODY_TIMEOUT_S = 30.0
READER_GRACE_S = 1.0  # the answer's own deadline comes first, and is told to who still reads
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


def build_app(options: Options, *, on_failure: Callable[[], None]) -> Starlette:
    """The application. `on_failure` is called when the base model cannot be loaded."""
    metrics = Metrics()
    versions = Versions(options, metrics)
    admission = Admission(versions, metrics, options)

    async def load_base() -> None:
        try:
            await versions.load_base()
        except Exception:
            log.exception("the base model cannot be served")
            on_failure()
            raise
        await versions.watch()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(load_base())  # the port answers meanwhile: /health says 503
        yield
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work
        await versions.stop()

    async def chat_completions(request: Request) -> Response:
        body = parse(ChatRequest, await _read_body(request, options.max_body_bytes))
        answer = await admission.admit(body)
        return _Stream(answer) if body.stream else await _whole(answer, request)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [version.card() for version in versions.all()]})

    async def load(request: Request) -> Response:
        body = parse(LoadRequest, await _read_body(request, options.max_body_bytes))
        try:
            # Shielded: a client that leaves does not leave a version half loaded.
            version = await asyncio.shield(versions.load(body.lora_name, body.lora_path, pinned=body.pinned))
        except ArtifactError as error:
            raise InvalidRequest(str(error), code="bad_artifact", param="lora_path") from error
        return JSONResponse(version.card())

    async def unload(request: Request) -> Response:
        body = parse(UnloadRequest, await _read_body(request, options.max_body_bytes))
        await asyncio.shield(versions.unload(body.lora_name))
        return JSONResponse({"id": body.lora_name, "object": "model", "deleted": True})

    async def health(request: Request) -> Response:
        state = versions.health()
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    async def exposition(request: Request) -> Response:
        for version in versions.all():
            metrics.running.labels(version.name).set(version.lane.running)
            metrics.waiting.labels(version.name).set(version.lane.waiting)
            metrics.cache.labels(version.name).set(version.lane.cache_usage)
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")

    def guarded(handler: Handler) -> Handler:
        """The key first, then the handler; refusals in the one shape."""

        async def guard(request: Request) -> Response:
            try:
                _check_key(request, options.api_key)
                return await handler(request)
            except EngineError as error:
                metrics.refused.labels(error.code).inc()
                return _refusal(error)

        return guard

    async def not_here(request: Request, error: Exception) -> Response:
        known = cast(HTTPException, error)
        code = "method_not_allowed" if known.status_code == 405 else "not_found"
        shape = {"type": "invalid_request_error", "code": code, "message": known.detail, "param": None}
        return JSONResponse({"error": shape}, status_code=known.status_code, headers=known.headers)

    async def broken(request: Request, error: Exception) -> Response:
        return _refusal(EngineError("something went wrong in the engine; its log says what"))

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", guarded(chat_completions), methods=["POST"]),
            Route("/v1/models", guarded(models)),
            Route("/v1/load_lora_adapter", guarded(load), methods=["POST"]),
            Route("/v1/unload_lora_adapter", guarded(unload), methods=["POST"]),
            Route("/health", health),
            Route("/metrics", guarded(exposition)),
        ],
        exception_handlers={HTTPException: not_here, Exception: broken},
        lifespan=lifespan,
    )
    app.state.versions = versions
    return app


class _Stream(Response):
    """Server-sent events that end, and cancel their answer, the moment the client is gone."""

    media_type = "text/event-stream"

    def __init__(self, answer: Completion) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for frame in self._answer.frames():
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            # A reader that does not read, and does not leave either, blocks a send for good.
            async with asyncio.timeout(self._answer.seconds_left + READER_GRACE_S):
                await _until_gone(write(), receive)
        except TimeoutError:
            log.warning("a reader took too long and was dropped")
        finally:
            self._answer.close()


async def _whole(answer: Completion, request: Request) -> Response:
    try:
        body = await _until_gone(answer.whole(), request.receive)
    finally:
        answer.close()
    # Nobody reads the answer to a client that left.
    return JSONResponse(body) if body is not None else Response(status_code=499)


async def _until_gone(work: Awaitable[T], receive: Receive) -> T | None:
    """The result of `work`, or None, with `work` cancelled, when the client disconnects first."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def _check_key(request: Request, key: str) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    if not hmac.compare_digest(given, key.encode()):
        raise Unauthorized("send the engine's key: Authorization: Bearer <ENGINE_API_KEY>")


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be too large or comes too slowly."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body has {declared} bytes; at most {limit} are taken")
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise TooLarge(f"the body has more than {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
    return b"".join(parts)


def _refusal(error: EngineError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return JSONResponse(error.body(), status_code=error.status, headers=headers)
