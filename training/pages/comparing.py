"""Runs side by side: what differs in their settings, their curves over each other, what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext, gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from projects.access import project_for
from projects.errors import Invalid
from projects.models import Project
from projects.numbers import read_whole
from training.models import Run, RunEvent

MOST, FEWEST = 4, 2
POINTS = 400  # of one curve; more are thinned out
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300.0, 190.0, 48.0, 8.0, 10.0, 26.0

# What is drawn of a run, in this order, where its method tells it. The names are those of its events.
PLOTS = {
    "loss": gettext_lazy("Loss"),
    "reward_accuracy": gettext_lazy("Reward accuracy"),
    "reward_margin": gettext_lazy("Reward margin"),
    "reward": gettext_lazy("Reward"),
    "kl": gettext_lazy("KL to the base"),
    "answer_tokens": gettext_lazy("Tokens an answer"),
    "entropy": gettext_lazy("Entropy"),
    "value_loss": gettext_lazy("Loss of the critic"),
    "token_accuracy": gettext_lazy("Token accuracy"),
    "tokens_per_second": gettext_lazy("Tokens a second"),
}


@dataclass(frozen=True)
class Curve:
    run: int
    series: int  # its place among the runs, which is its colour and dash
    path: str
    last: float


@dataclass(frozen=True)
class Overlay:
    """Curves of one number. Pixels of an SVG of WIDTH by HEIGHT."""

    name: str
    label: str
    curves: list[Curve]
    grid: list[tuple[float, float]]  # (y, value)
    steps: int


@login_required
@never_cache
@require_GET
def compare_runs(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    chosen = _chosen(project, request.GET.getlist("run"))
    told = [points_of(run) for run in chosen]
    context = {
        "project": project,
        "runs": list(enumerate(chosen)),
        "settings": differences([_settings(run) for run in chosen]),
        "results": differences([_results(run) for run in chosen], also_same=True),
        "overlays": overlays(chosen, told),
    }
    return render(request, "training/compare_runs.html", context)


def _chosen(project: Project, numbers: list[str]) -> list[Run]:
    wanted = {read_whole(number, digits=8) or 0 for number in numbers}  # they count from 1
    found = Run.objects.select_related("dataset", "version__project").filter(
        project=project, number__in=wanted
    )
    runs = sorted(found, key=lambda run: run.number)
    if not FEWEST <= len(runs) <= MOST:
        raise Invalid(gettext("Choose two to four runs to compare."), param="run")
    return runs


def points_of(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of all that a run told. Where it was resumed, the later word counts."""
    found: dict[str, dict[int, float]] = {}
    for data in RunEvent.objects.filter(run=run, name="progress").values_list("data", flat=True):
        step = data.get("step")
        if type(step) is not int:
            continue
        for name, value in numbers_of(data).items():
            found.setdefault(name, {})[step] = value
    return {name: sorted(values.items()) for name, values in found.items()}


def numbers_of(data: dict[str, Any]) -> dict[str, float]:
    """What one progress event tells that can be drawn."""
    told = {**data.get("metrics", {}), "tokens_per_second": data.get("tokens_per_second")}
    return {
        name: float(value)
        for name, value in told.items()
        if name in PLOTS and isinstance(value, int | float) and not isinstance(value, bool)
    }


def overlays(runs: list[Run], told: list[dict[str, list[tuple[int, float]]]]) -> list[Overlay]:
    """A plot for each number that at least one of the runs told."""
    found = []
    for name, label in PLOTS.items():
        lines = [(place, points[name]) for place, points in enumerate(told) if points.get(name)]
        if not lines:
            continue
        values = [value for _, points in lines for _, value in points]
        low, high = min(0.0, *values), max(*values, 0.0)
        if name == "reward_accuracy":
            high = 1.0
        high = high if high > low else low + 1.0
        steps = max(step for _, points in lines for step, _ in points)
        curves = [
            Curve(runs[place].number, place, _path(points, low, high, steps), points[-1][1])
            for place, points in lines
        ]
        marks = [low + (high - low) * share for share in (0.0, 0.5, 1.0)]
        grid = [(_y(value, low, high), value) for value in marks]
        found.append(Overlay(name, str(label), curves, grid, steps))
    return found


def differences(rows: list[dict[str, Any]], *, also_same: bool = False) -> list[tuple[str, list[Any], bool]]:
    """(name, value of each, whether they differ), those that differ first. Equal ones only when asked."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = [(name, [row.get(name) for row in rows]) for name in names]
    told = [(name, values, any(value != values[0] for value in values)) for name, values in found]
    kept = [one for one in told if one[2] or also_same]
    return sorted(kept, key=lambda one: not one[2])


def _settings(run: Run) -> dict[str, Any]:
    return {
        "method": run.method,
        "dataset": run.dataset.number,
        "seed": run.seed,
        **dict(sorted(run.config.items())),
    }


def _results(run: Run) -> dict[str, Any]:
    """What came out: state, held-out numbers, cost."""
    heldout = {name: value for name, value in run.metrics.items() if name.startswith("heldout_")}
    seconds = (run.finished - run.started).total_seconds() if run.started and run.finished else None
    return {
        "status": run.get_status_display(),
        "made": run.version.label if run.version else None,
        "loss": run.metrics.get("loss"),
        **heldout,
        "seconds": seconds,
        "peak_memory_bytes": run.compute.get("peak_memory_bytes"),
        "pf_days": run.compute.get("pf_days"),
    }


def _path(points: list[tuple[int, float]], low: float, high: float, steps: int) -> str:
    thin = points[:: max(1, len(points) // POINTS)]
    thin = thin if thin[-1] == points[-1] else [*thin, points[-1]]
    across = WIDTH - LEFT - RIGHT
    return "M" + "L".join(
        f"{LEFT + across * step / max(steps, 1):.1f} {_y(value, low, high):.1f}" for step, value in thin
    )


def _y(value: float, low: float, high: float) -> float:
    return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)
