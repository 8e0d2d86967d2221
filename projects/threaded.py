"""Synchronous views under ASGI, as cheap as under WSGI: a request runs in one thread, and that is one of few.

Django's own handler starts a thread for each request, moves the request to it and back several times, and
lets as many of them ask for a database connection at once as there are clients. Here no more requests work
than there are connections for them. The others wait in line before they take one, so none meets the pool's
time limit unless the database itself is away. Pages and REST have a line each, and what takes long (a view
names those methods in `long_methods`; all of the console) has another, so that it holds up neither.

A body is read before its thread is taken; one in chunks is given the length that it turned out to have.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest, get_script_prefix
from django.db import connection
from django.http import HttpResponseBase
from django.urls import Resolver404, resolve, set_script_prefix

from projects.bodies import NDJSONParser
from projects.error_pages import error_response
from projects.errors import Unavailable, is_program
from projects.offload import connected

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Any], Awaitable[None]]
View = TypeVar("View", bound=Callable[..., Any])
MAX_WAITING = 500  # requests in one line
MAX_DRAINED = 64_000_000  # bytes of a body that is too large, before the connection is given up


class _Line:
    """Few threads, and the requests that wait for them."""

    def __init__(self, name: str, threads: int) -> None:
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._waiting = 0

    async def run(self, work: Callable[[], HttpResponseBase]) -> HttpResponseBase | None:
        """The answer, or None when too many wait already. A client that leaves stops nothing."""
        if self._waiting >= MAX_WAITING:
            return None
        self._waiting += 1
        try:
            call = partial(copy_context().run, connected, work)
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        finally:
            self._waiting -= 1


class ThreadedHandler(ASGIHandler):
    """Answers what `takes` says; everything else is Django's own handler's."""

    def __init__(self) -> None:
        # Not ASGIHandler's, which would load the middleware for asynchronous views.
        self.load_middleware(is_async=False)
        threads = settings.DATABASE_THREADS
        # Pages are Python for most of their time, and more of them at a time only take it from each other:
        # two do as many a second as four, and each is done sooner.
        self._pages = _Line("pages", max(1, threads // 2))
        # SQLite has one writer at a time, and who finds it taken sleeps: there it is quicker to take turns.
        self._rest = _Line("rest", 1 if connection.vendor == "sqlite" else threads)
        self._long = _Line("long", max(1, threads // 2))

    @staticmethod
    def takes(scope: Scope) -> bool:
        """Whether its view is synchronous, so neither a stream nor /v1. Static files need no database."""
        return (
            scope["type"] == "http"
            and not scope["path"].startswith(settings.STATIC_URL)
            and not iscoroutinefunction(_view_of(scope["path"]))
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope, body = await _read(scope, receive)
        except RequestAborted:
            return
        with body:
            request, refused = self.create_request(scope, body)
            response = await self._answer(request) if request is not None else refused
            assert response is not None  # noqa: S101 - one of the two is there
            if response.streaming:
                await self._stream(response, receive, send)
            else:
                await self.send_response(response, send)

    async def _answer(self, request: ASGIRequest) -> HttpResponseBase:
        answer = await self._line_of(request).run(partial(self._respond, request))
        full = "Too many requests wait already. Try again in a moment."
        return answer or error_response(request, Unavailable(full, code="overloaded"))

    def _line_of(self, request: ASGIRequest) -> _Line:
        view = _view_of(request.path_info)
        if request.method in getattr(view, "long_methods", ()) or request.path_info.startswith("/admin/"):
            return self._long
        return self._rest if is_program(request) else self._pages

    def _respond(self, request: ASGIRequest) -> HttpResponseBase:
        set_script_prefix(get_script_prefix(request.scope))
        return self.get_response(request)

    async def _stream(self, response: HttpResponseBase, receive: Receive, send: Send) -> None:
        """A download, until it ends or its reader leaves."""
        tasks = [
            asyncio.create_task(self.send_response(response, send)),
            asyncio.create_task(self.listen_for_disconnect(receive)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[1].cancel()
        if not tasks[0].done():
            tasks[0].cancel()
        try:
            with suppress(asyncio.CancelledError):
                await tasks[0]
            with suppress(asyncio.CancelledError, RequestAborted):
                await tasks[1]
        finally:
            await sync_to_async(response.close, thread_sensitive=False)()


def takes_long(*methods: str) -> Callable[[View], View]:
    """For a page whose methods load a version or read all feedback: they wait in a line of their own."""

    def mark(view: View) -> View:
        view.long_methods = frozenset(methods)  # type: ignore[attr-defined]  # read by `_line_of`
        return view

    return mark


def _view_of(path: str) -> Any:
    """The view (its class, of REST framework) at this path; None when there is none."""
    try:
        view = resolve(path).func
    except Resolver404:
        return None
    return getattr(view, "view_class", getattr(view, "cls", view))


async def _read(scope: Scope, receive: Receive) -> tuple[Scope, tempfile.SpooledTemporaryFile[bytes]]:
    """The body, in memory or in a file when it is large. Raises RequestAborted when it breaks off.

    Lines of JSON may be of any length together, and a page's form has its own bound. Of any other body of
    REST only so much is kept that it can be seen to be too large; the rest is read, since a client that is
    still sending hears no answer.
    """
    headers = dict(scope["headers"])
    is_lines = headers.get(b"content-type", b"").startswith(NDJSONParser.media_type.encode())
    is_whole = is_lines or not scope["path"].startswith("/api/")
    body = tempfile.SpooledTemporaryFile[bytes](max_size=settings.FILE_UPLOAD_MAX_MEMORY_SIZE)
    kept = seen = 0
    more = True
    while more and seen <= MAX_DRAINED + kept:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.close()
            raise RequestAborted
        piece = message.get("body", b"")
        seen += len(piece)
        kept += body.write(piece if is_whole else piece[: max(0, settings.MAX_BODY_BYTES + 1 - kept)])
        more = message.get("more_body", False)
    body.seek(0)
    if b"transfer-encoding" in headers:
        without = [
            pair for pair in scope["headers"] if pair[0] not in (b"transfer-encoding", b"content-length")
        ]
        scope = {**scope, "headers": [*without, (b"content-length", str(kept).encode())]}
    return scope, body
