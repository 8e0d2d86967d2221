"""Server-sent events as a response whose source is closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from django.http import StreamingHttpResponse


class EventStream(StreamingHttpResponse):
    """Frames to a reader. When the response is closed, so is the generator behind it, at once.

    Django closes no asynchronous iterators: a reader that left while a frame was being sent would count until
    the garbage is collected, and its answer would go on. Make it on the event loop that sends it.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], *, headers: dict[str, str] | None = None) -> None:
        usual = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, content_type="text/event-stream", headers={**usual, **(headers or {})})
        self._frames = frames
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Called from a thread."""
        super().close()
        closing: Any = self._frames.aclose()
        asyncio.run_coroutine_threadsafe(closing, self._loop)
