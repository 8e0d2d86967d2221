"""Numbers in addresses, headers and forms, where anything may stand."""

from __future__ import annotations


def read_whole(text: str, *, digits: int) -> int | None:
    """The number that `text` is, of at most so many digits (0 to 9); None for all else, also for a sign."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= digits
    return int(text) if is_number else None
