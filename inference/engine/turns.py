"""Who may use the cores: a lock that is handed on in order of arrival.

On a CPU two generation threads that compute at once fight for the cores, and both lose. So each takes a turn
for one step, which uses all cores; loading takes its turns in small pieces between them.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A fair lock, for `with`. Not reentrant."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()  # stays taken: it is now the next one's
            else:
                self._taken = False
