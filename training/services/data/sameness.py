"""When two texts say the same: exactly, but for case and spaces, or nearly. Pure, and the same everywhere."""

from __future__ import annotations

import unicodedata
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

WINDOW = 8  # bytes of a shingle: one word or two
Shingles = NDArray[np.uint64]
_ENDS = " .,;:!?…\"'`*"


def normalised(text: str) -> str:
    """The text without what a reader would not call a difference: case, spaces, forms, marks at its ends.

    Marks inside stay: 3+4 is not 3-4.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).strip(_ENDS)


def digest(text: str) -> bytes:
    """Eight bytes that are equal for texts that are the same once normalised."""
    return blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def joined(*digests: bytes) -> int:
    """One number for several digests in their order."""
    return int.from_bytes(blake2b(b"".join(digests), digest_size=8).digest(), "big")


def shingles(text: str) -> Shingles:
    """The distinct windows of WINDOW bytes of the normalised text, as sorted numbers; none of a short one."""
    raw = normalised(text).encode("utf-8", "surrogatepass")
    if len(raw) < WINDOW:
        return np.empty(0, dtype=np.uint64)
    # Overlapping windows of the bytes themselves: no copy, and no loop in Python.
    windows: Shingles = np.ndarray(shape=(len(raw) - WINDOW + 1,), dtype="<u8", buffer=raw, strides=(1,))
    return np.unique(windows)
