"""The whole log of feedback as a stream: oldest first, in constant memory, as the API shows each row.

Each kind is read page by page along its index of time, and the four are merged. Rows are built by hand: the
serializers of feedback/api/answers.py say the same (a test compares the two) at a tenth of the speed.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.db.models import Q, QuerySet

from feedback.models import Candidate, Preference
from feedback.services.record import KINDS
from projects.downloads import Sink
from projects.models import Project

PAGE = 1_000  # rows of a kind in memory
GROUP = 5_000  # rows of a Parquet row group

_COMMON = (
    "id", "source", "rater__username", "subject", "seconds_spent", "guideline_version", "created",
    "supersedes_id", "superseded", "retracted",
)  # fmt: skip
_OWN = {
    "rating": ("completion_id", "aspect", "value", "reasons", "comment"),
    "preference": ("prompt_id", "all_bad", "strength", "comment"),
    "correction": ("completion_id", "text"),
    "flag": ("completion_id", "reason", "comment"),
}
_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("rater", pa.string()),
        ("subject", pa.string()),
        ("seconds_spent", pa.float64()),
        ("guideline_version", pa.int64()),
        ("created", _TIME),
        ("supersedes", pa.string()),
        ("superseded", _TIME),
        ("retracted", _TIME),
        ("completion_id", pa.string()),
        ("prompt_id", pa.string()),
        ("aspect", pa.string()),
        ("value", pa.int64()),
        ("reasons", pa.list_(pa.string())),
        ("candidates", pa.list_(pa.string())),
        ("ranks", pa.list_(pa.int64())),
        ("all_bad", pa.bool_()),
        ("strength", pa.int64()),
        ("text", pa.string()),
        ("reason", pa.string()),
        ("comment", pa.string()),
    ]
)
Row = dict[str, Any]


def log_rows(
    project: Project, *, kinds: list[str], since: datetime | None = None, until: datetime | None = None
) -> Iterator[Row]:
    """Rows as the API shows them, with times as datetimes: made from `since` on, and before `until`."""
    logs = [_log(project, kind, since, until) for kind in kinds]
    return heapq.merge(*logs, key=lambda row: (row["created"], row["id"]))


def as_jsonl(rows: Iterator[Row]) -> Iterator[bytes]:
    lines: list[bytes] = []
    for row in rows:
        lines.append(json.dumps(row, ensure_ascii=False, default=_plain).encode())
        if len(lines) == PAGE:
            yield b"\n".join(lines) + b"\n"
            lines = []
    if lines:
        yield b"\n".join(lines) + b"\n"


def as_parquet(rows: Iterator[Row]) -> Iterator[bytes]:
    """One file with all columns; those that a kind has not are null in its rows."""
    sink = Sink()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == GROUP:
                writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                group = []
                yield sink.taken()
        if group:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    yield sink.taken()


def _log(project: Project, kind: str, since: datetime | None, until: datetime | None) -> Iterator[Row]:
    """One kind, oldest first, a page at a time: (created, id) of the last row begins the next page."""
    rows: QuerySet[Any] = KINDS[kind].objects.filter(project=project).order_by("created", "id")
    if until is not None:
        rows = rows.filter(created__lt=until)
    after = Q(created__gte=since) if since is not None else Q()
    while True:
        page = list(rows.filter(after).values(*_COMMON, *_OWN[kind])[:PAGE])
        sides = _sides([row["id"] for row in page]) if kind == "preference" else {}
        last = page[-1] if page else None
        beyond = (
            Q(created__gte=last["created"]) & (Q(created__gt=last["created"]) | Q(id__gt=last["id"]))
            if last
            else Q()
        )
        for row in page:
            yield _shown(kind, row, sides)
        if len(page) < PAGE:
            return
        after = beyond


def _sides(ids: list[Any]) -> dict[Any, list[tuple[str, int | None]]]:
    """Preference id -> (completion id, rank) in shown order."""
    found: dict[Any, list[tuple[str, int | None]]] = {}
    rows = Candidate.objects.filter(preference__in=ids).order_by("preference_id", "position")
    for preference, completion, rank in rows.values_list("preference_id", "completion_id", "rank"):
        found.setdefault(preference, []).append((str(completion), rank))
    return found


def _shown(kind: str, row: Row, sides: dict[Any, list[tuple[str, int | None]]]) -> Row:
    shown: Row = {
        "id": str(row["id"]),
        "kind": kind,
        "source": row["source"],
        "rater": row["rater__username"],
        "subject": row["subject"],
        "seconds_spent": row["seconds_spent"],
        "guideline_version": row["guideline_version"],
        "created": row["created"],
        "supersedes": str(row["supersedes_id"]) if row["supersedes_id"] else None,
        "superseded": row["superseded"],
        "retracted": row["retracted"],
    }
    if kind != Preference.__name__.lower():
        return {
            **shown,
            **{name: row[name] for name in _OWN[kind]},
            "completion_id": str(row["completion_id"]),
        }
    candidates = sides.get(row["id"], [])
    return {
        **shown,
        "prompt_id": str(row["prompt_id"]),
        "candidates": [completion for completion, _ in candidates],
        "ranks": None if row["all_bad"] else [rank for _, rank in candidates],
        "all_bad": row["all_bad"],
        "strength": row["strength"],
        "comment": row["comment"],
    }


def _plain(value: Any) -> str:
    """A time as the API writes it."""
    assert isinstance(value, datetime)  # noqa: S101 - the only thing above that JSON has no form for
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
