"""Downloads of any size: streamed in constant memory, with no database connection held between two pieces."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import StreamingHttpResponse
from rest_framework.request import Request

from projects.offload import in_database

CONTENT_TYPES = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}


def streamed(
    request: Request, chunks: Iterator[bytes], *, content_type: str, name: str
) -> StreamingHttpResponse:
    """A download under WSGI and under ASGI. `chunks` may use the ORM while it makes a piece."""
    is_async = isinstance(request._request, ASGIRequest)
    pieces = _offloaded(chunks) if is_async else _released(chunks)
    response = StreamingHttpResponse(pieces, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


async def _offloaded(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await in_database(next, chunks, None)) is not None:
        yield chunk


def _released(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if connection.vendor != "sqlite" and not connection.in_atomic_block:
            connection.close()  # back to the pool; a slow reader holds none
        yield chunk


class Sink(io.RawIOBase):
    """A file that can only be written; what was written is taken from it bit by bit."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._place = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._place += len(part)
        return len(part)

    def tell(self) -> int:
        return self._place

    def taken(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts = []
        return taken
