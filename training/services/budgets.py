"""Device hours: what a project's runs used of a policy's budgets, and what is left."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet
from django.utils import timezone

from projects.models import Project
from training.models import Policy, Run

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Budget:
    """Hours; `limit` 0 is none. `period` is what people call it."""

    period: str
    used: float
    limit: float

    def allows(self, more: float) -> bool:
        return not self.limit or (self.used < self.limit and self.used + more <= self.limit)

    def in_words(self) -> str:
        if not self.limit:
            return ""
        return f"{_hours(self.used)} of {_hours(self.limit)} device hours used {self.period}"


def budgets_of(policy: Policy, now: datetime) -> list[Budget]:
    """Today's, in the time zone of the settings, and that of the last seven days."""
    midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    return [
        Budget("today", device_hours(policy.project, midnight, now), policy.day_hours),
        Budget("in seven days", device_hours(policy.project, now - WEEK, now), policy.week_hours),
    ]


def device_hours(project: Project, since: datetime, now: datetime) -> float:
    """Of all runs between the two moments, also those that failed and those that still run."""
    seconds = 0.0
    for started, finished in runs_between(project, since, now).values_list("started", "finished"):
        began = max(started or now, since)
        seconds += max(0.0, (min(finished or now, now) - began).total_seconds())
    return seconds / 3600


def runs_between(project: Project, since: datetime, until: datetime) -> QuerySet[Run]:
    """Those that ran for at least a part of the time."""
    began = Run.objects.filter(project=project, started__isnull=False, started__lt=until)
    return began.exclude(finished__lt=since)


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"
