"""Geometry of a small plot over time, in the pixels of its SVG. Colours and type are the stylesheet's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

TOP, BOTTOM, LEFT, RIGHT, WIDTH = 22.0, 168.0, 52.0, 26.0, 540.0
Point = tuple[str, datetime, float]  # version, when, how much


@dataclass
class Timeline:
    """Lines are (place of the version, path); marks are (x, label); ticks are (x or y, value)."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    grid: list[tuple[float, float]] = field(default_factory=list)
    times: list[tuple[float, datetime]] = field(default_factory=list)
    width: float = WIDTH
    height: float = BOTTOM + 26
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = BOTTOM


def timeline(
    points: Iterable[Point],
    *,
    versions: list[str],
    deployed: Iterable[tuple[datetime, str]],
    since: datetime,
    until: datetime,
) -> Timeline | None:
    """A line a version of `versions`, through its points from left to right; None without a point."""
    shown = [point for point in points if point[0] in versions]
    if not shown:
        return None
    most = max(value for _, _, value in shown) or 1.0

    def across(when: datetime) -> float:
        share = (when - since) / max(until - since, timedelta(seconds=1))
        return round(LEFT + min(max(share, 0), 1) * (WIDTH - LEFT - RIGHT), 1)

    def up(value: float) -> float:
        return round(BOTTOM - value / most * (BOTTOM - TOP), 1)

    plot = Timeline(
        grid=[(up(most * share), most * share) for share in (0, 0.5, 1)],
        times=[
            (across(when), when) for when in (since + (until - since) * part / 4 for part in (0, 1, 2, 3))
        ],
        marks=[(across(when), label) for when, label in deployed],
    )
    for place, version in enumerate(versions):
        own = [f"{across(when)} {up(value)}" for label, when, value in shown if label == version]
        if own:  # one point alone is a short dash, so that it is seen
            plot.lines.append((place, f"M{' L'.join(own)}{' h4' if len(own) == 1 else ''}"))
    return plot
