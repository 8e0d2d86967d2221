"""Which ids are behind a dataset's rows, so that one of a million is found without reading the rows.

Two files beside the shards: `feedback.ids` has the judgements, `sources.ids` what the texts come from
(prompts, documents, answers). Each is the ids' sixteen bytes, sorted, each id once. A look-up is a binary
search in a mapped file, some twenty pages of it; a table of the same would hold a row for each label in each
dataset. The files are part of the dataset, under its digest, and hold nothing that anybody wrote, so they
outlive an erasure as its proof.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np

from training.services.data.group import Row

FEEDBACK, SOURCES = "feedback.ids", "sources.ids"
SIZE = 16  # bytes of an id


class IdCollector:
    """Filled row by row, in some twenty bytes a judgement; `write` sorts."""

    def __init__(self) -> None:
        self._feedback = bytearray()
        self._sources = bytearray()
        self._prompt = ""
        self._of_prompt: set[str] = set()

    def add_row(self, row: Row) -> None:
        if row.prompt_id != self._prompt or not row.prompt_id:
            self._prompt, self._of_prompt = row.prompt_id, set()
            if source := row.prompt_id or row.document_id:
                self._sources += _as_bytes(source)
        for id_ in row.feedback_ids:
            if id_ not in self._of_prompt:  # a judgement makes rows of one prompt only
                self._of_prompt.add(id_)
                self._feedback += _as_bytes(id_)

    def add(self, *, feedback: Iterable[str] = (), sources: Iterable[str] = ()) -> None:
        self._feedback += b"".join(map(_as_bytes, feedback))
        self._sources += b"".join(map(_as_bytes, sources))

    def write(self, folder: Path) -> None:
        """Raises OSError where the disk is full."""
        for name, ids in ((FEEDBACK, self._feedback), (SOURCES, self._sources)):
            # As strings of bytes, whose order is that of the bytes; numpy's padding with zeros changes none.
            (folder / name).write_bytes(np.unique(np.frombuffer(ids, dtype="S16")).tobytes())


class IdFile:
    """One sorted file of ids, open. A file that is missing holds none."""

    def __init__(self, ids: mmap.mmap | bytes) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids) // SIZE

    def __contains__(self, id_: UUID) -> bool:
        wanted = id_.bytes
        place = self._place(wanted)
        return self._ids[place * SIZE : (place + 1) * SIZE] == wanted

    def page(self, start: int, count: int) -> list[UUID]:
        """`count` ids from the place `start` on, in their order: by time of making, as ids are UUIDv7."""
        found = self._ids[start * SIZE : (start + count) * SIZE]
        return [UUID(bytes=found[at : at + SIZE]) for at in range(0, len(found), SIZE)]

    def among(self, wanted: Sequence[UUID]) -> list[UUID]:
        """Those of `wanted` that are here: of a million in a million within a second."""
        if not len(self) or not wanted:
            return []
        here = np.frombuffer(self._ids, dtype="S16")
        asked = np.frombuffer(b"".join(id_.bytes for id_ in wanted), dtype="S16")
        places = np.minimum(np.searchsorted(here, asked), len(here) - 1)
        return [id_ for id_, is_here in zip(wanted, here[places] == asked, strict=True) if is_here]

    def _place(self, wanted: bytes) -> int:
        """Of the first id that is not smaller."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._ids[middle * SIZE : (middle + 1) * SIZE] < wanted:
                low = middle + 1
            else:
                high = middle
        return low


@contextmanager
def ids_of(folder: Path, name: str) -> Iterator[IdFile]:
    """The ids of a dataset's folder: FEEDBACK or SOURCES."""
    try:
        file = (folder / name).open("rb")
    except FileNotFoundError:
        yield IdFile(b"")
        return
    with file:
        if not file.seek(0, 2):
            yield IdFile(b"")  # nothing can be mapped of an empty file
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ids:
            yield IdFile(ids)


def _as_bytes(id_: str) -> bytes:
    return bytes.fromhex(id_.replace("-", ""))
