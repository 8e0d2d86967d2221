"""Rows to Parquet files: written in batches, cut into shards, the same bytes for the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.services.data.group import Answer, Messages, Row

ROWS_A_GROUP = 8_192  # what is in memory at once
GROUPS_A_SHARD = 32
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_MESSAGES = pa.list_(_MESSAGE)
_ORIGIN = [("prompt_id", pa.string()), ("feedback_ids", pa.list_(pa.string()))]
SCHEMAS: dict[str, pa.Schema] = {
    "preference": pa.schema(
        [
            ("prompt", _MESSAGES),
            ("chosen", _MESSAGES),
            ("rejected", _MESSAGES),
            ("margin", pa.float64()),
            ("chosen_ended", pa.bool_()),
            ("rejected_ended", pa.bool_()),
            *_ORIGIN,
        ]
    ),
    "sft": pa.schema([("prompt", _MESSAGES), ("completion", _MESSAGES), ("ended", pa.bool_()), *_ORIGIN]),
    "unpaired": pa.schema(
        [
            ("prompt", _MESSAGES),
            ("completion", _MESSAGES),
            ("label", pa.bool_()),
            ("ended", pa.bool_()),
            *_ORIGIN,
        ]
    ),
    "prompts": pa.schema([("prompt", _MESSAGES), *_ORIGIN]),
    "text": pa.schema([("text", pa.string()), ("document_id", pa.string()), *_ORIGIN]),
}
_PARQUET: dict[str, Any] = {
    # Every option that shapes the bytes is written out.
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "data_page_version": "1.0",
}


class PartWriter:
    """The shards of one part, `train-00000.parquet` and on. There is always one, also without a row."""

    def __init__(self, folder: Path, part: str, format_: str) -> None:
        self.folder = folder
        self.part = part
        self.format = format_
        self.schema = SCHEMAS[format_]
        self._rows: list[Row] = []
        self._shard = 0
        self._groups = 0
        self._open()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_A_GROUP:
            self._flush()

    def close(self) -> None:
        """Raises OSError where the disk is full."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._groups == GROUPS_A_SHARD:
            self._writer.close()
            self._shard += 1
            self._groups = 0
            self._open()
        columns = columns_of(self.format, self._rows)
        table = pa.Table.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)
        self._writer.write_table(table, row_group_size=ROWS_A_GROUP)
        self._groups += 1
        self._rows = []

    def _open(self) -> None:
        path = self.folder / f"{self.part}-{self._shard:05}.parquet"
        self._writer = pq.ParquetWriter(path, self.schema, **_PARQUET)


def columns_of(format_: str, rows: Sequence[Row]) -> dict[str, pa.Array]:
    """The format's columns as arrays: built from flat lists, which is many times faster than from dicts."""
    columns: dict[str, pa.Array] = {
        "prompt_id": pa.array([row.prompt_id or None for row in rows], pa.string()),
        "feedback_ids": _lists([row.feedback_ids for row in rows], pa.string()),
    }
    if format_ == "text":
        columns["text"] = pa.array([row.answers[0].text for row in rows], pa.string())
        columns["document_id"] = pa.array([row.document_id or None for row in rows], pa.string())
        return columns
    columns["prompt"] = _conversations([row.messages for row in rows])
    if format_ == "preference":
        for place, name in enumerate(("chosen", "rejected")):
            columns |= _side(name, [row.answers[place] for row in rows])
        # 0 where nobody said one: TRL's RewardTrainer takes this column where it stands, and no null in it.
        columns["margin"] = pa.array([row.margin or 0.0 for row in rows], pa.float64())
    elif format_ != "prompts":
        columns |= _side("completion", [row.answers[0] for row in rows])
        columns["ended"] = columns.pop("completion_ended")
    if format_ == "unpaired":
        columns["label"] = pa.array([row.label for row in rows], pa.bool_())
    return columns


def row_json(format_: str, row: Row) -> dict[str, Any]:
    """One row as it would be read back."""
    columns = columns_of(format_, [row])
    return {name: columns[name][0].as_py() for name in SCHEMAS[format_].names}


def shard_paths(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"{part}-*.parquet"))


def _side(name: str, answers: list[Answer]) -> dict[str, pa.Array]:
    """An answer is one message of the assistant."""
    content = pa.array([answer.text for answer in answers], pa.string())
    roles = pa.repeat(pa.scalar("assistant"), len(answers))
    messages = pa.StructArray.from_arrays([roles, content], fields=list(_MESSAGE))
    return {
        name: pa.ListArray.from_arrays(pa.array(range(len(answers) + 1), pa.int32()), messages),
        f"{name}_ended": pa.array([answer.ended for answer in answers], pa.bool_()),
    }


def _conversations(conversations: list[Messages]) -> pa.Array:
    flat = list(chain.from_iterable(conversations))
    messages = pa.StructArray.from_arrays(
        [
            pa.array([message["role"] for message in flat], pa.string()),
            pa.array([message["content"] for message in flat], pa.string()),
        ],
        fields=list(_MESSAGE),
    )
    return pa.ListArray.from_arrays(_offsets(conversations), messages)


def _lists(values: list[list[str]], kind: pa.DataType) -> pa.Array:
    flat = pa.array(list(chain.from_iterable(values)), kind)
    return pa.ListArray.from_arrays(_offsets(values), flat)


def _offsets(values: Iterable[Sequence[Any]]) -> pa.Array:
    return pa.array(list(accumulate(map(len, values), initial=0)), pa.int32())
