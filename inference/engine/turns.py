"""Who may use the cores: a lock with as many places as there are cores to give, handed on in order.

On a CPU more busy threads than cores make every step slow: each of its hundreds of small kernels waits for
the thread that has no core. So a generation thread takes a place for one step, and loading takes places for
small pieces in between.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A fair semaphore, for `with`. Not reentrant."""

    def __init__(self, places: int = 1) -> None:
        self._mutex = threading.Lock()
        self._free = places
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if self._free:
                self._free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()  # the place stays taken: it is now the next one's
            else:
                self._free += 1
