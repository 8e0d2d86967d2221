"""Latency and throughput by version, from the completions of a window."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from inference.models import Completion
from projects.models import Project

# Percentiles of more answers than this differ by nothing that anybody acts on.
MAX_ROWS = 50_000


@dataclass(frozen=True, kw_only=True)
class VersionLatency:
    """Times are milliseconds; None where no answer has the number."""

    version: str
    completions: int
    failed: int
    tokens: int
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    ttft_ms_p99: float | None
    gap_ms_p99: float | None
    total_ms_p50: float | None
    tokens_per_second: float | None  # of one answer, after its first token: the median
    completions_per_minute: float
    tokens_per_minute: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def version_latency(project: Project, since: datetime) -> list[VersionLatency]:
    """A row a version that answered since then, the busiest first. Answers made elsewhere are left out."""
    rows = (
        Completion.objects.filter(project=project, created__gte=since, version__isnull=False)
        .exclude(state=Completion.State.RUNNING)
        .order_by("-created")
        .values("version_label", "state", "tokens_out", "ttft_ms", "gap_p99_ms", "total_ms")[:MAX_ROWS]
    )
    by_version: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_version[row["version_label"]].append(dict(row))
    minutes = max((timezone.now() - since).total_seconds() / 60, 1 / 60)
    numbers = [_numbers(version, found, minutes) for version, found in by_version.items()]
    return sorted(numbers, key=lambda row: -row.completions)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank: the smallest value that at least `share` of all do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _numbers(version: str, rows: list[dict[str, Any]], minutes: float) -> VersionLatency:
    def column(name: str) -> list[float]:
        return [row[name] for row in rows if row[name] is not None]

    ttft = column("ttft_ms")
    tokens = sum(row["tokens_out"] or 0 for row in rows)
    rates = [
        (row["tokens_out"] - 1) / (row["total_ms"] - row["ttft_ms"]) * 1000
        for row in rows
        if (row["tokens_out"] or 0) > 1
        and row["ttft_ms"] is not None
        and (row["total_ms"] or 0) > row["ttft_ms"]
    ]
    failed = sum(row["state"] == Completion.State.FAILED for row in rows)
    return VersionLatency(
        version=version,
        completions=len(rows) - failed,
        failed=failed,
        tokens=tokens,
        ttft_ms_p50=percentile(ttft, 0.5),
        ttft_ms_p95=percentile(ttft, 0.95),
        ttft_ms_p99=percentile(ttft, 0.99),
        gap_ms_p99=percentile(column("gap_p99_ms"), 0.99),
        total_ms_p50=percentile(column("total_ms"), 0.5),
        tokens_per_second=percentile(rates, 0.5),
        completions_per_minute=(len(rows) - failed) / minutes,
        tokens_per_minute=tokens / minutes,
    )
