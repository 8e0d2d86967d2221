"""The accounting page: what learning cost by day, run and version, and what a point of win rate costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.formats import date_format
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from projects.access import project_for
from projects.models import Membership
from training.services.account import Account, Cost, account_of

WINDOWS = {"24h": 1, "7d": 7, "30d": 30, "90d": 90}  # days
LEFT, RIGHT, TOP, BOTTOM, WIDTH = 44.0, 8.0, 12.0, 168.0, 720.0
COLOURS = 7  # that the stylesheet has for bars
LABELS = 8  # days that are named below the bars


@dataclass(frozen=True)
class Part:
    """One part of a stacked bar."""

    x: float
    y: float
    width: float
    height: float
    series: int


@dataclass
class Bars:
    """Device hours by day, a colour a method; `table` has the same numbers as the picture."""

    methods: list[str]
    parts: list[Part] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    grid: list[tuple[float, float]] = field(default_factory=list)
    table: list[tuple[str, list[float]]] = field(default_factory=list)
    width: float = WIDTH
    height: float = BOTTOM + 24
    right: float = WIDTH - RIGHT


@login_required
@never_cache
@require_GET
def accounting(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    window = request.GET.get("window", "30d")
    if window not in WINDOWS:
        window = "30d"
    account = account_of(project, since=timezone.now() - timedelta(days=WINDOWS[window]))
    context = {
        "project": project,
        "account": account,
        "bars": day_bars(account),
        "shares": flop_shares(account.total),
        "window": window,
        "windows": list(WINDOWS),
        "best": _best(account),
    }
    return render(request, "training/accounting.html", context)


def day_bars(account: Account) -> Bars | None:
    """None where no run held a device."""
    methods = sorted({method for _, hours in account.days for method in hours})
    most = max((sum(hours.values()) for _, hours in account.days), default=0.0)
    if not methods or not most:
        return None
    bars = Bars(methods, grid=[(_up(most * share, most), most * share) for share in (0.0, 0.5, 1.0)])
    pitch = (WIDTH - LEFT - RIGHT) / len(account.days)
    every = -(-len(account.days) // LABELS)
    for place, (day, hours) in enumerate(account.days):
        x, below = LEFT + pitch * place, BOTTOM
        for series, method in enumerate(methods):
            if not hours.get(method):
                continue
            tall = BOTTOM - _up(hours[method], most)
            bars.parts.append(
                Part(
                    round(x + 1, 1),
                    round(below - tall, 1),
                    round(max(1.0, min(pitch - 2, 48)), 1),
                    round(tall, 1),
                    series % COLOURS,
                )
            )
            below -= tall
        label = date_format(day, "j M")
        if place % every == 0:
            bars.ticks.append((round(x, 1), label))
        if hours:
            bars.table.append((label, [hours.get(method, 0.0) for method in methods]))
    return bars


def flop_shares(cost: Cost) -> list[dict[str, Any]]:
    """Forward, backward and generation as one bar of 100 %; empty where nothing was counted."""
    if not cost.flops:
        return []
    shares, x = [], 0.0
    for series, name in enumerate(("forward", "backward", "generation")):
        share = getattr(cost, name) / cost.flops
        shares.append(
            {"name": name, "share": share, "x": round(x, 2), "width": round(share * 100, 2), "series": series}
        )
        x += share * 100
    return shares


def _best(account: Account) -> Any:
    """The version whose points came cheapest."""
    won = [one for one in account.versions if one.hours_per_point is not None]
    return min(won, key=lambda one: one.hours_per_point or 0.0) if won else None


def _up(value: float, most: float) -> float:
    return round(BOTTOM - value / most * (BOTTOM - TOP), 1)
