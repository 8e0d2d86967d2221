"""What of the gate stands in training data: a prompt that the gate asks as well, the same or nearly.

A split by the hash of the first message keeps equal prompts on one side. What it cannot see is told here:
the gate's question with another case, a word changed, asked later in a conversation, or inside of a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from inference.models import Prompt
from projects.models import Project
from training.services.data.sameness import WINDOW, Shingles, digest, shingles

SAME, NEAR = "gate_same", "gate_near"
MIN_SHINGLES = 24  # fewer say too little to be nearly anything
NEAR_JACCARD = 0.7  # shingles in common, of those of both
NEAR_CONTAINED = 0.8  # of the gate prompt's, in a longer text
# A shingle of more gate prompts than this share (and than three) is a form that they are written in.
COMMON_SHARE = 0.02
# The index of a very large gate keeps a fixed sample of the shingles, so that memory stays bounded.
MAX_INDEXED = 4_000_000


class GateIndex:
    """Every user message of the gate's prompts, to be looked up."""

    def __init__(self, messages: Iterable[str], *, is_near: bool = True) -> None:
        self.prompts = 0
        self._same: set[bytes] = set()
        sets: list[Shingles] = []
        for text in messages:
            self.prompts += 1
            key = digest(text)
            if key not in self._same:
                self._same.add(key)
                if is_near:
                    sets.append(shingles(text))
        self._build(sets)

    def _build(self, sets: list[Shingles]) -> None:
        flat = np.concatenate(sets) if sets else np.empty(0, dtype=np.uint64)
        values, counts = np.unique(flat, return_counts=True)
        self._forms: Shingles = values[counts > max(3, COMMON_SHARE * len(sets))]
        self._thinning = 1
        while len(flat) // self._thinning > MAX_INDEXED:
            self._thinning *= 2
        kept = [self._telling(one) for one in sets]
        self._sizes: NDArray[np.int64] = np.array([len(one) for one in kept], dtype=np.int64)
        owners = np.repeat(np.arange(len(kept), dtype=np.int32), self._sizes)
        windows = np.concatenate(kept) if kept else flat
        order = np.argsort(windows, kind="stable")
        self._windows: Shingles = windows[order]
        self._owners: NDArray[np.int32] = owners[order]

    def of_messages(self, texts: Iterable[str]) -> str | None:
        """SAME or NEAR when one of the texts is a gate prompt's; else None."""
        texts = list(texts)
        if any(digest(text) in self._same for text in texts):
            return SAME
        return NEAR if any(self._is_near(text) for text in texts) else None

    def of_document(self, text: str) -> str | None:
        """SAME or NEAR when the text is, or holds, a gate prompt; else None."""
        if digest(text) in self._same:
            return SAME
        common, _ = self._common(text)
        held = (self._sizes >= self._least) & (common >= NEAR_CONTAINED * self._sizes)
        return NEAR if held.any() else None

    @property
    def _least(self) -> float:
        return MIN_SHINGLES / self._thinning

    def _is_near(self, text: str) -> bool:
        common, size = self._common(text)
        if size < self._least or common.max(initial=0) < NEAR_JACCARD * self._least:
            return False
        alike = common >= NEAR_JACCARD * (self._sizes + size - common)
        held = common >= NEAR_CONTAINED * self._sizes
        return bool(((self._sizes >= self._least) & (alike | held)).any())

    def _common(self, text: str) -> tuple[NDArray[np.int64], int]:
        """How many telling shingles the text shares with each gate message, and how many it has."""
        if not len(self._windows):
            return np.zeros(len(self._sizes), dtype=np.int64), 0
        own = self._telling(shingles(text))
        first = np.searchsorted(self._windows, own)
        found = self._windows[np.minimum(first, len(self._windows) - 1)] == own
        first, last = first[found], np.searchsorted(self._windows, own[found], side="right")
        hits = [self._owners[a:b] for a, b in zip(first, last, strict=True)]
        owners = np.concatenate(hits) if hits else self._owners[:0]
        return np.bincount(owners, minlength=len(self._sizes)), len(own)

    def _telling(self, windows: Shingles) -> Shingles:
        """Without the forms that many gate prompts share; thinned as the index is."""
        if self._thinning > 1:
            mixed = windows * np.uint64(0x9E3779B97F4A7C15)
            windows = windows[(mixed >> np.uint64(40)) % np.uint64(self._thinning) == 0]
        if not len(self._forms):
            return windows
        place = np.minimum(np.searchsorted(self._forms, windows), len(self._forms) - 1)
        telling: Shingles = windows[self._forms[place] != windows]
        return telling


def gate_index(project: Project, cutoff: datetime, *, is_near: bool) -> GateIndex:
    """The gate as it stood at the cut-off."""
    rows = (
        Prompt.objects.held_out()
        .filter(project=project, created__lte=cutoff)
        .order_by("id")
        .values_list("messages")
    )
    return GateIndex(_asked(rows.iterator(chunk_size=2000)), is_near=is_near)


def asked_in(messages: list[dict[str, str]]) -> list[str]:
    """The user's messages that tell one prompt from another: the first, and later ones of some length.

    "Thanks" and "go on" stand in every second conversation.
    """
    texts = [message["content"] for message in messages if message["role"] == "user"]
    return texts[:1] + [text for text in texts[1:] if len(text) >= MIN_SHINGLES + WINDOW]


def _asked(rows: Iterable[tuple[list[dict[str, str]]]]) -> Iterator[str]:
    for (messages,) in rows:
        yield from asked_in(messages)
