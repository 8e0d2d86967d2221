"""From tokens to text that may be shown: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF = "\ufffd"  # what a decoder makes of bytes that are not a character (yet)
CONTEXT = 4  # tokens kept for context when the window is cut: some decoders strip the first space


class TextStream:
    """Takes tokens one by one and gives the text that is certain.

    Held back are an incomplete character at the end, and any end that could still become a stop string.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = stops
        self._window: list[int] = []  # tokens since the last clean cut
        self._decoded = 0  # characters of the window's text that were taken
        self._held = ""  # decoded, and perhaps the beginning of a stop string
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens make certain, often empty. After a stop string: always empty."""
        if self.stopped:
            return ""
        self._window.extend(tokens)
        text = self._decode(self._window)
        whole = text.removesuffix(HALF)
        fresh = whole[self._decoded :]
        self._decoded = len(whole)
        if whole == text and len(self._window) > 4 * CONTEXT:
            self._window = self._window[-CONTEXT:]
            self._decoded = len(self._decode(self._window))
        return self._release(fresh)

    def finish(self) -> str:
        """The rest, when no token will follow. Half a character is dropped."""
        rest, self._held = self._held, ""
        return "" if self.stopped else rest

    def _release(self, fresh: str) -> str:
        if not self._stops:
            return fresh
        text = self._held + fresh
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
