"""ASGI entry: pages, REST, SSE and the OpenAI endpoints."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
_django = get_asgi_application()

from config.checks import refuse_unsafe_start  # noqa: E402  settings are ready only after the set-up above
from inference.relay import stop_answers  # noqa: E402  so are models

refuse_unsafe_start()


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Django, and the server's own stop, which Django does not hear of: answers in the making get an end."""
    if scope["type"] != "lifespan":
        await _django(scope, receive, send)
        return
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await stop_answers()
            await send({"type": "lifespan.shutdown.complete"})
            return
