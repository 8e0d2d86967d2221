"""ASGI entry: pages, REST, SSE and the OpenAI endpoints."""

import gc
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
_django = get_asgi_application()

from config.checks import refuse_unsafe_start  # noqa: E402  settings are ready only after the set-up above
from inference.relay import stop_answers  # noqa: E402  so are models
from projects.threaded import ThreadedHandler  # noqa: E402  and its middleware

refuse_unsafe_start()
_threaded = ThreadedHandler()


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Django, and the server's own stop, which Django does not hear of: answers in the making get an end."""
    if ThreadedHandler.takes(scope):
        await _threaded(scope, receive, send)
        return
    if scope["type"] == "http" and scope["path"].startswith("/v1/"):
        # Without a thread of its own, which Django starts and awaits for each request.
        await _django.handle(scope, receive, send)
        return
    if scope["type"] != "lifespan":
        await _django(scope, receive, send)
        return
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            # What is here now stays. Looking through it again held every stream for a tenth of a second.
            gc.collect()
            gc.freeze()
            # So long a database thread waits for a busy event loop, several times an admission; else 5 ms.
            sys.setswitchinterval(0.0005)
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await stop_answers()
            await send({"type": "lifespan.shutdown.complete"})
            return
