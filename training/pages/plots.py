"""Geometry of small plots, in the pixels of their SVG. Colours and type are the stylesheet's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TOP, BOTTOM, LEFT, RIGHT = 12.0, 188.0, 44.0, 20.0
STEP = 76.0  # pixels from version to version
LAST = 24  # versions that are drawn; the table has them all


@dataclass
class Mark:
    """One version: where it stands, and the heights of what is known about it."""

    x: float
    label: str
    is_live: bool
    rate: float | None  # y of the win rate at the gate
    low: float | None
    high: float | None
    thumbs: float | None
    diamond: str = ""


@dataclass
class Plot:
    width: float
    marks: list[Mark]
    grid: list[tuple[float, str]] = field(default_factory=list)
    half: float = 0.0
    height: float = BOTTOM + 30

    @property
    def right(self) -> float:
        return self.width - RIGHT


def height(share: float | None) -> float | None:
    """The y of a share between 0 and 1."""
    return None if share is None else round(BOTTOM - share * (BOTTOM - TOP), 1)


def quality_plot(rows: list[dict[str, Any]]) -> Plot | None:
    """Win rates at the gate with their intervals, and shares of thumbs up; None when nothing is known.

    A win rate is against what served at that time, so no line joins one version's to the next one's.
    """
    rows = rows[-LAST:]
    if not any(row["gate_win_rate"] is not None or row["thumbs_up"] is not None for row in rows):
        return None
    marks = []
    for place, row in enumerate(rows):
        x = LEFT + STEP / 2 + place * STEP
        thumbs = height(row["thumbs_up"])
        marks.append(
            Mark(
                x=x,
                label=f"v{row['number']}",
                is_live=row["is_live"],
                rate=height(row["gate_win_rate"]),
                low=height(row["gate_ci_low"]),
                high=height(row["gate_ci_high"]),
                thumbs=thumbs,
                diamond="" if thumbs is None else _diamond(x + 14, thumbs),
            )
        )
    return Plot(
        width=max(320.0, LEFT + STEP * len(rows) + RIGHT),
        marks=marks,
        grid=[
            (height(share) or 0.0, f"{share:.0%}".replace("%", " %")) for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        ],
        half=height(0.5) or 0.0,
    )


def _diamond(x: float, y: float, size: float = 5.0) -> str:
    return f"M{x:.1f} {y - size:.1f}l{size} {size}l{-size} {size}l{-size} {-size}z"


@dataclass
class Interval:
    """A share with its interval on a line from 0 to 1, for an evaluation. Pixels of a 320-wide SVG."""

    rate: float
    low: float
    high: float
    bar: float

    @property
    def width(self) -> float:
        return max(0.0, self.high - self.low)


def interval_of(numbers: dict[str, Any]) -> Interval | None:
    """Where the win rate, its interval and the bar to clear lie; None without a win rate."""
    if numbers.get("win_rate") is None or numbers.get("ci_low") is None or numbers.get("ci_high") is None:
        return None
    return Interval(
        rate=_across(numbers["win_rate"]),
        low=_across(numbers["ci_low"]),
        high=_across(numbers["ci_high"]),
        bar=_across(0.5 + (numbers.get("margin") or 0.0)),
    )


def _across(share: float) -> float:
    return round(10 + 300 * share, 1)
