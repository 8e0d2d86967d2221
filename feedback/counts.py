"""What is kept by hour of judgements (projects/services/hourly.py), by the version that was judged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Q, QuerySet

from feedback.models import Candidate, Correction, Flag, Preference, Rating
from feedback.models.judgements import TAKEN_BACK
from inference.counts import ANSWERS, PROMPTS
from projects.models import Project
from projects.services.hourly import Series, Sums, sums_of


def _sides(project: Project) -> QuerySet[Candidate]:
    """Each answer of a preference with each answer of another version beside it."""
    rows: QuerySet[Any] = Candidate.objects.filter(preference__project=project)
    beside = "preference__candidates"
    rows = rows.annotate(other=F(f"{beside}__completion__version_label"), other_rank=F(f"{beside}__rank"))
    return rows.exclude(other=F("completion__version_label"))


RATINGS = Series(
    "ratings",
    lambda project: Rating.objects.filter(project=project),
    label="completion__version_label",
    measures={
        "count": Count("pk"),
        "thumbs": Count("pk", filter=Q(aspect="thumbs")),
        "up": Count("pk", filter=Q(aspect="thumbs", value__gt=0)),
    },
    gone=TAKEN_BACK,
)
PREFERENCES = Series(
    "preferences", lambda project: Preference.objects.filter(project=project), gone=TAKEN_BACK
)
BATTLES = Series(
    "battles",
    _sides,
    created="preference__created",
    label="completion__version_label",
    measures={
        "count": Count("pk"),
        "wins": Count("pk", filter=Q(rank__lt=F("other_rank"))),
        # Equal ranks, or both bad.
        "ties": Count("pk", filter=Q(rank=F("other_rank")) | Q(rank=None, other_rank=None)),
    },
    gone=Q(preference__retracted__isnull=False) | Q(preference__superseded__isnull=False),
)
CORRECTIONS = Series(
    "corrections",
    lambda project: Correction.objects.filter(project=project),
    label="completion__version_label",
    gone=TAKEN_BACK,
)
FLAGS = Series(
    "flags",
    lambda project: Flag.objects.filter(project=project),
    label="completion__version_label",
    gone=TAKEN_BACK,
)
ALL_SERIES = (PROMPTS, ANSWERS, RATINGS, PREFERENCES, BATTLES, CORRECTIONS, FLAGS)
JUDGEMENTS = {"rating": RATINGS, "preference": PREFERENCES, "correction": CORRECTIONS, "flag": FLAGS}


def judgements_that_stand(project: Project, since: datetime | None = None) -> dict[str, int]:
    """By kind, made since then: neither retracted nor superseded."""
    return by_kind(sums_of(list(JUDGEMENTS.values()), project, since))


def by_kind(counted: Mapping[str, Mapping[str, Sums]]) -> dict[str, int]:
    """How many judgements of each kind are in what `sums_of` counted."""
    return {kind: total(counted[series.name]) for kind, series in JUDGEMENTS.items()}


def total(by_label: Mapping[str, Sums]) -> int:
    return int(sum(found["count"] for found in by_label.values()))
