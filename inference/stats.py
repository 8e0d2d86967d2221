"""Latency and throughput by version, from the completions of a window."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models.functions.datetime import TruncBase
from django.utils import timezone

from inference.counts import ANSWERS, ended_answers
from projects.models import Project
from projects.services.hourly import sums, sums_by_step

# Percentiles are of the newest so many; of more they differ by nothing that anybody acts on.
MAX_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class VersionLatency:
    """Times are milliseconds; None where no answer has the number.

    Counts and rates are of all answers in the window; percentiles are of `sampled`, the newest of them.
    """

    version: str
    completions: int
    failed: int
    tokens: int
    sampled: int
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    ttft_ms_p99: float | None
    gap_ms_p99: float | None
    total_ms_p50: float | None
    total_ms_p95: float | None
    total_ms_p99: float | None
    tokens_per_second: float | None  # of one answer, after its first token: the median
    completions_per_minute: float
    tokens_per_minute: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def version_latency(project: Project, since: datetime) -> list[VersionLatency]:
    """A row a version that answered since then, the busiest first. Answers made elsewhere are left out."""
    counts = sums(ANSWERS, project, since)
    newest = ended_answers(project).filter(created__gte=since).order_by("-created")
    by_version: dict[str, list[_Timed]] = defaultdict(list)
    for label, *timed in newest.values_list("version_label", *_Timed._fields)[:MAX_ROWS]:
        by_version[label].append(_Timed(*timed))
    minutes = max((timezone.now() - since).total_seconds() / 60, 1 / 60)
    numbers = [_numbers(label, found, by_version[label], minutes) for label, found in counts.items()]
    return sorted(numbers, key=lambda row: -row.completions)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What one version did in one minute, hour or day."""

    version: str
    begin: datetime
    completions: int
    ttft_ms_mean: float | None


def over_time(project: Project, since: datetime, step: type[TruncBase]) -> list[Moment]:
    """Of those that went well, oldest first; `step` as sums_by_step takes it."""
    return [
        Moment(
            version=label,
            begin=begin,
            completions=int(found["count"] - found["failed"]),
            ttft_ms_mean=found["waited_ms"] / found["timed"] if found["timed"] else None,
        )
        for (begin, label), found in sums_by_step(ANSWERS, project, since, step).items()
        if found["count"] > found["failed"]
    ]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank: the smallest value that at least `share` of all do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class _Timed(NamedTuple):
    """One answer, where each time may be missing."""

    tokens_out: int | None
    ttft_ms: float | None
    gap_p99_ms: float | None
    total_ms: float | None


def _numbers(
    version: str, counted: Mapping[str, float], rows: list[_Timed], minutes: float
) -> VersionLatency:
    ttft = [row.ttft_ms for row in rows if row.ttft_ms is not None]
    total = [row.total_ms for row in rows if row.total_ms is not None]
    gaps = [row.gap_p99_ms for row in rows if row.gap_p99_ms is not None]
    rates = [
        (row.tokens_out - 1) / (row.total_ms - row.ttft_ms) * 1000
        for row in rows
        if row.tokens_out is not None and row.ttft_ms is not None and row.total_ms is not None
        if row.tokens_out > 1 and row.total_ms > row.ttft_ms
    ]
    completions = int(counted["count"] - counted["failed"])
    return VersionLatency(
        version=version,
        completions=completions,
        failed=int(counted["failed"]),
        tokens=int(counted["tokens"]),
        sampled=len(rows),
        ttft_ms_p50=percentile(ttft, 0.5),
        ttft_ms_p95=percentile(ttft, 0.95),
        ttft_ms_p99=percentile(ttft, 0.99),
        gap_ms_p99=percentile(gaps, 0.99),
        total_ms_p50=percentile(total, 0.5),
        total_ms_p95=percentile(total, 0.95),
        total_ms_p99=percentile(total, 0.99),
        tokens_per_second=percentile(rates, 0.5),
        completions_per_minute=completions / minutes,
        tokens_per_minute=counted["tokens"] / minutes,
    )
