"""Latency and throughput by version, from the completions of a window."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import Avg, Count, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.db.models.functions.datetime import TruncBase
from django.utils import timezone

from inference.models import Completion
from projects.models import Project

# Percentiles are of the newest so many; of more they differ by nothing that anybody acts on.
MAX_ROWS = 50_000
FAILED = Count("pk", filter=Q(state=Completion.State.FAILED))


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
    ended = _ended(project, since)
    counts = (
        ended.order_by()
        .values("version_label")
        .annotate(count=Count("pk"), failed=FAILED, tokens=Coalesce(Sum("tokens_out"), 0))
    )
    rows = ended.order_by("-created").values(
        "version_label", "tokens_out", "ttft_ms", "gap_p99_ms", "total_ms"
    )[:MAX_ROWS]
    by_version: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_version[row["version_label"]].append(dict(row))
    minutes = max((timezone.now() - since).total_seconds() / 60, 1 / 60)
    numbers = [_numbers(found, by_version[found["version_label"]], minutes) for found in counts]
    return sorted(numbers, key=lambda row: -row.completions)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What one version did in one minute, hour or day."""

    version: str
    begin: datetime
    completions: int
    ttft_ms_mean: float | None


def over_time(project: Project, since: datetime, step: type[TruncBase]) -> list[Moment]:
    """Counted by the database, oldest first; `step` is TruncMinute, TruncHour or TruncDay."""
    rows = (
        _ended(project, since)
        .exclude(state=Completion.State.FAILED)
        .annotate(begin=step("created"))
        .order_by("begin", "version_label")
        .values("begin", "version_label")
        .annotate(count=Count("pk"), mean=Avg("ttft_ms"))
    )
    return [
        Moment(
            version=row["version_label"],
            begin=row["begin"],
            completions=row["count"],
            ttft_ms_mean=row["mean"],
        )
        for row in rows
    ]


def _ended(project: Project, since: datetime) -> QuerySet[Completion]:
    """Our own versions' answers that are not running any more."""
    found = Completion.objects.filter(project=project, created__gte=since, version__isnull=False)
    return found.exclude(state=Completion.State.RUNNING)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank: the smallest value that at least `share` of all do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _numbers(counted: Mapping[str, Any], rows: list[dict[str, Any]], minutes: float) -> VersionLatency:
    def column(name: str) -> list[float]:
        return [row[name] for row in rows if row[name] is not None]

    ttft, total = column("ttft_ms"), column("total_ms")
    rates = [
        (row["tokens_out"] - 1) / (row["total_ms"] - row["ttft_ms"]) * 1000
        for row in rows
        if (row["tokens_out"] or 0) > 1
        and row["ttft_ms"] is not None
        and (row["total_ms"] or 0) > row["ttft_ms"]
    ]
    completions = counted["count"] - counted["failed"]
    return VersionLatency(
        version=counted["version_label"],
        completions=completions,
        failed=counted["failed"],
        tokens=counted["tokens"],
        sampled=len(rows),
        ttft_ms_p50=percentile(ttft, 0.5),
        ttft_ms_p95=percentile(ttft, 0.95),
        ttft_ms_p99=percentile(ttft, 0.99),
        gap_ms_p99=percentile(column("gap_p99_ms"), 0.99),
        total_ms_p50=percentile(total, 0.5),
        total_ms_p95=percentile(total, 0.95),
        total_ms_p99=percentile(total, 0.99),
        tokens_per_second=percentile(rates, 0.5),
        completions_per_minute=completions / minutes,
        tokens_per_minute=counted["tokens"] / minutes,
    )
