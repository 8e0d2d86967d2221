"""Database work of asynchronous code: in a few threads of its own, with no connection kept after.

A stream lives for minutes and touches the database twice. Django's own threads would keep a connection for
each stream; here each piece of work takes one from the pool and gives it back. There are fewer threads than
pooled connections, so that a burst of streams waits in this queue and never runs into the pool's time limit.
(Synchronous views have theirs: projects/threaded.py.)

SQLite has one writer at a time, and who finds it taken sleeps, up to a tenth of a second at once: there all
that writes shares one thread, and what only reads waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import connection, connections, transaction

P = ParamSpec("P")
T = TypeVar("T")

_threads = ThreadPoolExecutor(max_workers=settings.DATABASE_THREADS, thread_name_prefix="database")
_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")


async def in_database(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work`, which may use the ORM. A cancelled caller leaves; the work goes on."""
    return await _in(_threads, partial(work, *args, **kwargs))


async def write_to_database(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """As `in_database`, for work that is there to write."""
    threads = _writer if connection.vendor == "sqlite" else _threads
    return await _in(threads, partial(work, *args, **kwargs))


@contextmanager
def lightly_committed() -> Iterator[None]:
    """A transaction that others see at once, and that a power cut may undo until the next ordinary one.

    For what would be of no use after a power cut anyway. Waiting for the disk took most of the time that a
    relay adds to a first token.
    """
    is_outermost = not connection.in_atomic_block
    is_sqlite = connection.vendor == "sqlite"
    if is_outermost and is_sqlite:
        _run("PRAGMA synchronous=NORMAL")
    try:
        with transaction.atomic():
            if not is_sqlite:
                _run("SET LOCAL synchronous_commit TO off")
            yield
    finally:
        if is_outermost and is_sqlite:
            _run("PRAGMA synchronous=FULL")


def _run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


async def _in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    call = partial(copy_context().run, connected, work)
    return await asyncio.shield(asyncio.get_running_loop().run_in_executor(threads, call))


def connected(work: Callable[[], T]) -> T:
    """The result of `work`, after which this thread holds no pooled connection."""
    try:
        return work()
    finally:
        # SQLite has no pool that could run dry, and opening its file anew costs milliseconds.
        if connection.vendor != "sqlite":
            connections.close_all()
