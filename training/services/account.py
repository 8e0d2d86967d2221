"""What learning and serving cost in a window of time: by run, by version, by day, and for what it bought.

FLOPs are those that the runs counted (recipes/accounting.py has the formulas), put together by what a device
did: forward passes, backward passes, and generation. Device hours are by the clock, also of runs that failed
or still run; of one that began before the window, what lies inside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, Sum
from django.utils import timezone

from inference.models import Completion
from projects.models import Project
from training.models import Evaluation, Policy, Run
from training.recipes.accounting import PF_DAY, TRAINED, Weights
from training.services.budgets import Budget, budgets_of, runs_between
from training.services.descent import versions_read

GENERATION = "generation"


@dataclass
class Cost:
    """Of one run, one version, or all. FLOPs by what the device did; tokens by the role of their model."""

    device_hours: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    generation: float = 0.0
    tokens: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        return self.forward + self.backward + self.generation

    @property
    def pf_days(self) -> float:
        return self.flops / PF_DAY

    def add(self, other: Cost) -> None:
        self.device_hours += other.device_hours
        self.forward += other.forward
        self.backward += other.backward
        self.generation += other.generation
        for role, count in other.tokens.items():
            self.tokens[role] = self.tokens.get(role, 0) + count


@dataclass
class RunCost:
    run: Run
    cost: Cost


@dataclass
class VersionCost:
    """All that was spent on a version: its run, those that it builds on, and those that judged it."""

    number: int
    runs: list[int]
    cost: Cost
    win_rate: float | None  # against what served then, as the gate last decided
    points: float | None  # of win rate above one half

    @property
    def hours_per_point(self) -> float | None:
        """Device hours for each point of win rate; None where nothing was won."""
        return self.cost.device_hours / self.points if self.points and self.points > 0 else None


@dataclass
class Served:
    """Answers of the engines in the window. Their FLOPs are not measured, so tokens alone are told."""

    answers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass
class Account:
    since: datetime
    until: datetime
    total: Cost
    runs: list[RunCost]  # newest first
    versions: list[VersionCost]  # newest first
    days: list[tuple[date, dict[str, float]]]  # device hours by method, oldest first, days without any too
    served: Served
    budgets: list[Budget]


def account_of(project: Project, *, since: datetime, until: datetime | None = None) -> Account:
    until = until or timezone.now()
    rows = runs_between(project, since, until).select_related("version", "reward").order_by("-number")
    runs = [RunCost(run, cost_of(run, since, until)) for run in rows]
    total = Cost()
    for one in runs:
        total.add(one.cost)
    policy = Policy.objects.filter(project=project).select_related("project").first()
    return Account(
        since=since,
        until=until,
        total=total,
        runs=runs,
        versions=_versions(project, runs),
        days=_days(runs, since, until),
        served=_served(project, since, until),
        budgets=[one for one in budgets_of(policy, until) if one.limit] if policy else [],
    )


def cost_of(run: Run, since: datetime, until: datetime) -> Cost:
    """What one run cost inside the window. Its FLOPs are spread evenly over the time that it ran."""
    began, ended = run.started or until, run.finished or until
    whole = max((ended - began).total_seconds(), 1e-9)
    share = min(1.0, _seconds_inside(run, since, until) / whole)
    cost = Cost(
        device_hours=_hours_inside(run, since, until),
        tokens={role: round(count * share) for role, count in _tokens(run).items() if count},
    )
    for role, flops in _flops(run).items():
        if role == GENERATION:
            cost.generation += flops * share
            continue
        forward = _forward_share(run, role)
        cost.forward += flops * forward * share
        cost.backward += flops * (1 - forward) * share
    return cost


def _hours_inside(run: Run, since: datetime, until: datetime) -> float:
    """Device hours: those of the clock, on each of its devices."""
    devices = int(run.compute.get("processes") or 1)
    return _seconds_inside(run, since, until) * devices / 3600


def _seconds_inside(run: Run, since: datetime, until: datetime) -> float:
    began, ended = run.started or until, run.finished or until
    return max(0.0, (min(ended, until) - max(began, since)).total_seconds())


def _tokens(run: Run) -> Mapping[str, int]:
    found = run.compute.get("tokens")
    return found if isinstance(found, dict) else {}


def _flops(run: Run) -> Mapping[str, float]:
    found = run.compute.get("flops_by_role")
    return found if isinstance(found, dict) else {}


def _forward_share(run: Run, role: str) -> float:
    """Of a role's FLOPs, the forward passes'; a second one for checkpointing is work of going back."""
    weights = run.compute.get("weights")
    if role not in TRAINED or not isinstance(weights, dict):
        return 1.0
    of = Weights(**weights)
    forward = of.flops("heldout") + 2 * of.adapter
    if role == "train" and (tokens := _tokens(run).get("train")):
        return min(1.0, forward * tokens / max(_flops(run)["train"], 1.0))
    return forward / of.flops("train")


# --- by version ------------------------------------------------------------------------------------------
def _versions(project: Project, runs: list[RunCost]) -> list[VersionCost]:
    rates: dict[Any, float] = {}
    decided = Evaluation.objects.filter(project=project, status=Evaluation.Status.DECIDED)
    for version_id, numbers in decided.order_by("number").values_list("candidate", "numbers"):
        if numbers.get("win_rate") is not None:
            rates[version_id] = float(numbers["win_rate"])
    by_version = {one.run.version_id: one for one in runs if one.run.version_id is not None}
    judging: dict[Any, list[RunCost]] = defaultdict(list)
    for one in runs:
        if one.run.judged_id is not None:
            judging[one.run.judged_id].append(one)
    made = []
    for version_id, own in by_version.items():
        version = own.run.version
        if version is None:
            continue
        parts = [own, *judging[version_id]]
        parts += _built_on(own, by_version)
        made.append(_version_cost(version.number, parts, rates.get(version_id)))
    return sorted(made, key=lambda one: -one.number)


def _built_on(own: RunCost, by_version: dict[UUID, RunCost]) -> list[RunCost]:
    """What made its reward model and the adapter that it went on with, and so on back."""
    found: dict[UUID, RunCost] = {}
    reading = [own]
    while reading:
        for id_ in versions_read(reading.pop().run):
            if id_ in by_version and id_ not in found:
                found[id_] = by_version[id_]
                reading.append(by_version[id_])
    return list(found.values())


def _version_cost(number: int, parts: Iterable[RunCost], rate: float | None) -> VersionCost:
    cost, numbers = Cost(), []
    for part in parts:
        cost.add(part.cost)
        numbers.append(part.run.number)
    points = None if rate is None else round((rate - 0.5) * 100, 6)
    return VersionCost(number, sorted(numbers), cost, rate, points)


# --- by day ----------------------------------------------------------------------------------------------
def _days(runs: list[RunCost], since: datetime, until: datetime) -> list[tuple[date, dict[str, float]]]:
    """Midnights are those of the pages' time zone. A run over midnight is counted on both days."""
    days: list[tuple[date, dict[str, float]]] = []
    begins = timezone.localtime(since).replace(hour=0, minute=0, second=0, microsecond=0)
    while begins < until:
        ends = begins + timedelta(days=1)
        hours: dict[str, float] = defaultdict(float)
        for one in runs:
            inside = _hours_inside(one.run, max(begins, since), min(ends, until))
            if inside:
                hours[one.run.method] += inside
        days.append((begins.date(), dict(hours)))
        begins = ends
    return days


def _served(project: Project, since: datetime, until: datetime) -> Served:
    found = Completion.objects.filter(project=project, created__gte=since, created__lt=until).aggregate(
        answers=Count("id"), tokens_in=Sum("tokens_in"), tokens_out=Sum("tokens_out")
    )
    return Served(found["answers"], found["tokens_in"] or 0, found["tokens_out"] or 0)
