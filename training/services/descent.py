"""Which runs a run builds on, and which build on it: through a reward model, or an adapter gone on with."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from django.db.models import Q, QuerySet

from training.models import Run


def versions_read(run: Run) -> list[UUID]:
    """The reward model, and the adapter that it goes on with, where there are such."""
    return [id_ for id_ in (run.reward_id, run.start_id) if id_ is not None]


def runs_behind(runs: Iterable[Run], among: QuerySet[Run]) -> list[Run]:
    """Those that made the versions which these runs read, and so on back: their labels taught these, too."""
    found: dict[UUID, Run] = {}
    seen = {run.pk for run in runs}
    reading = list(runs)
    while read := {id_ for run in reading for id_ in versions_read(run)}:
        reading = [run for run in among.filter(version__in=read) if run.pk not in seen]
        seen |= {run.pk for run in reading}
        found |= {run.pk: run for run in reading}
    return list(found.values())


def runs_from(runs: Iterable[Run], among: QuerySet[Run]) -> list[Run]:
    """Those that read what these made as a reward model or went on with it, and so on."""
    found: dict[UUID, Run] = {}
    seen = {run.pk for run in runs}
    made = {run.version_id for run in runs if run.version_id is not None}
    while made:
        reading = [run for run in among.filter(Q(reward__in=made) | Q(start__in=made)) if run.pk not in seen]
        seen |= {run.pk for run in reading}
        found |= {run.pk: run for run in reading}
        made = {run.version_id for run in reading if run.version_id is not None}
    return list(found.values())
