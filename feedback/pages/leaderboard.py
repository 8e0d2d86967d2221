"""The leaderboard: versions by what people prefer, with intervals, and whether length explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.models import Leaderboard
from projects.access import project_for

LEFT, WIDTH, RIGHT, ROW, TOP = 64.0, 420.0, 24.0, 34.0, 28.0
GRID_STEPS = (10, 25, 50, 100, 200, 400, 800)


@dataclass(frozen=True)
class Bar:
    """One version's dot and interval, in pixels of the SVG."""

    label: str
    y: float
    dot: float
    low: float
    high: float
    is_settled: bool
    is_reference: bool


@dataclass(frozen=True)
class Chart:
    width: float
    height: float
    bars: list[Bar]
    grid: list[tuple[float, int]]  # x, points


@login_required
@never_cache
@require_GET
def leaderboard(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    board = Leaderboard.objects.filter(project=project).first()
    places = board.places if board else []
    numbers = board.numbers if board else {}
    context = {
        "project": project,
        "board": board,
        "places": places,
        "numbers": numbers,
        "chart": draw(places, numbers.get("reference", "")) if places else None,
        "is_unsettled": any(not place["is_settled"] for place in places),
    }
    return render(request, "feedback/leaderboard.html", context)


def draw(places: list[dict[str, Any]], reference: str) -> Chart:
    """A row a version, the best on top; all on one scale of points."""
    low = min(place["low"] for place in places)
    high = max(place["high"] for place in places)
    step = next((step for step in GRID_STEPS if (high - low) / step <= 6), GRID_STEPS[-1])
    first, last = int(low // step), -int(-high // step)
    least, span = first * step, max(1, (last - first) * step)

    def across(points: float) -> float:
        return round(LEFT + WIDTH * (points - least) / span, 1)

    bars = [
        Bar(
            label=place["version"],
            y=TOP + ROW * (row + 0.5),
            dot=across(place["points"]),
            low=across(place["low"]),
            high=across(place["high"]),
            is_settled=place["is_settled"],
            is_reference=place["version"] == reference,
        )
        for row, place in enumerate(places)
    ]
    return Chart(
        width=LEFT + WIDTH + RIGHT,
        height=TOP + ROW * len(places) + 12,
        bars=bars,
        grid=[(across(mark * step), mark * step) for mark in range(first, last + 1)],
    )
