"""Django's PostgreSQL, which says at once that the database is away when that is known.

Without this each request finds out for itself, after the pool's whole wait, and there are more requests than
threads: of 200 clients on four threads the last one heard of it after fifty waits. Here the first ones find
out; from then on one at a time looks whether it is back, and all others are told without a wait.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import OperationalError
from django.db.backends.postgresql import base
from psycopg_pool import PoolTimeout

LOOK_EVERY = 1.0  # seconds between two looks whether it is back


class DatabaseWrapper(base.DatabaseWrapper):
    """Used by its name in settings: ENGINE is "projects.postgresql"."""

    # Of the whole process, on the clock of time.monotonic(). Threads may race for them; all that comes of it
    # is one more that waits.
    _given = 0.0  # when the pool gave a connection last
    _next_look = 0.0  # 0 while the database is there

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection of the pool. Raises PoolTimeout, or OperationalError while the database is away."""
        own, began = DatabaseWrapper, time.monotonic()
        if began < own._next_look:
            raise OperationalError("the database did not answer a moment ago")
        if own._next_look:
            own._next_look = began + self.pool.timeout + LOOK_EVERY  # this one looks
        try:
            connection = super().get_new_connection(conn_params)
        except PoolTimeout:
            if own._given < began:  # where others got one meanwhile, there are only too few
                own._next_look = time.monotonic() + LOOK_EVERY
            raise
        own._given, own._next_look = time.monotonic(), 0.0
        return connection
