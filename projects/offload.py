"""Database work of asynchronous code: in a few threads of its own, with no connection kept after.

A stream lives for minutes and touches the database twice. Django's own threads would keep a connection for
each stream; here each piece of work takes one from the pool and gives it back. There are fewer threads than
pooled connections, so that a burst of streams waits in this queue and never runs into the pool's time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import connection, connections

P = ParamSpec("P")
T = TypeVar("T")

_threads = ThreadPoolExecutor(
    max_workers=max(1, settings.DATABASE_POOL_SIZE - 1), thread_name_prefix="database"
)


async def in_database(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`, which may use the ORM. A cancelled caller leaves; the work goes on."""
    call = partial(copy_context().run, _connected, partial(work, *args, **kwargs))
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(_threads, call))


def _connected(work: Callable[[], T]) -> T:
    try:
        return work()
    finally:
        # SQLite has no pool that could run dry, and opening its file anew costs milliseconds.
        if connection.vendor != "sqlite":
            connections.close_all()
