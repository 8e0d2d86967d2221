"""The picture of how long texts are: bars by length, a colour a side. Pixels of its SVG."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext

LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 10.0, 150.0
BIN = 46.0
SIDES = ("prompt", "chosen", "rejected", "completion", "text")


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    series: int


@dataclass
class Histogram:
    """`table` has the same numbers as the picture: (lengths, counts in the order of `sides`)."""

    sides: list[str]
    bars: list[Bar]
    ticks: list[tuple[float, str]]
    grid: list[tuple[float, str]]
    width: float
    table: list[tuple[str, list[int]]] = field(default_factory=list)
    height: float = BOTTOM + 24

    @property
    def right(self) -> float:
        return self.width - RIGHT


def length_histogram(lengths: dict[str, Any] | None) -> Histogram | None:
    """Bars of a dataset's `lengths`; None where nothing was measured."""
    if not lengths:
        return None
    sides = [name for name in SIDES if sum(lengths.get(name, ()))]
    if not sides:
        return None
    edges = lengths["edges"]
    used = [place for place in range(len(edges)) if any(lengths[name][place] for name in sides)]
    bins = range(used[0], used[-1] + 1)
    most = max(lengths[name][place] for name in sides for place in bins)
    width = LEFT + BIN * len(bins) + RIGHT
    thick = (BIN - 8) / len(sides)
    bars, ticks, table = [], [], []
    for at, place in enumerate(bins):
        x = LEFT + BIN * at
        ticks.append((x, f"{edges[place]:,}"))
        table.append(
            (
                _range(edges[place], edges[place + 1] if place + 1 < len(edges) else None),
                [lengths[name][place] for name in sides],
            )
        )
        for series, name in enumerate(sides):
            count = lengths[name][place]
            if count:
                tall = max(1.5, round(count / most * (BOTTOM - TOP), 1))
                bars.append(Bar(x + 4 + thick * series, BOTTOM - tall, max(1.0, thick - 1), tall, series))
    grid = [(BOTTOM, "0"), (round((TOP + BOTTOM) / 2, 1), f"{most / 2:,.0f}"), (TOP, f"{most:,}")]
    return Histogram(sides, bars, ticks, grid if most > 1 else [grid[0], grid[2]], max(240.0, width), table)


def _range(low: int, following: int | None) -> str:
    """The lengths of a bin, in words."""
    if following is None:
        return gettext("%(low)s and more") % {"low": f"{low:,}"}
    return gettext("%(low)s to %(high)s") % {"low": f"{low:,}", "high": f"{following - 1:,}"}
