"""What the person at the terminal sees while the ratchet turns."""

from __future__ import annotations

import sys
import time


class Progress:
    """Steps as lines with the time since the start; within a step one line that is rewritten."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.is_terminal = sys.stdout.isatty()
        self._last_update = 0.0

    def step(self, text: str) -> None:
        self._line(f"[{self._elapsed()}] {text}")

    def note(self, text: str) -> None:
        self._line(f"        {text}")

    def update(self, text: str) -> None:
        """The state of the running step: rewritten in a terminal, every 15 s in a log."""
        now = time.monotonic()
        if self.is_terminal:
            sys.stdout.write(f"\r\033[K        {text}")
            sys.stdout.flush()
        elif now - self._last_update > 15:
            self._last_update = now
            self.note(text)

    def _line(self, text: str) -> None:
        if self.is_terminal:
            sys.stdout.write("\r\033[K")
        print(text, flush=True)

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self.start)
        return f"{seconds // 60:2d}:{seconds % 60:02d}"
