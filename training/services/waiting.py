"""Judgements that no dataset has seen yet, and that the next one would use."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from feedback.models import Candidate, Correction, Preference, Rating
from feedback.services.raters import excluded_raters, rater_weights
from inference.models import Prompt
from projects.models import Project
from training.models import Dataset
from training.services.methods import METHODS


def waiting_judgements(
    project: Project, since: datetime | None, method: str = "dpo", *, most: int | None = None
) -> int:
    """Judgements on training prompts that came after `since` and that the method's dataset would read.

    Pairs come of preferences with a winner and of corrections; labels of ratings and of all-bad as well;
    demonstrations of corrections alone. Raters in quarantine or without weight do not count. Ratings that
    happen to make a pair inside a prompt are not counted for pairs. Counted up to `most`.
    """
    now = timezone.now()
    weightless = [judge for judge, weight in rater_weights(project, now).items() if weight <= 0]
    left_out = {*excluded_raters(project, now), *weightless}
    waiting = 0
    for rows in _read_by(_format_of(method)):
        rows = rows.filter(project=project)
        rows = rows.exclude(judge__in=left_out) if left_out else rows
        rows = rows.filter(created__gt=since) if since is not None else rows
        # Unsorted, or the database would sort a million rows to count ten thousand of them.
        waiting += rows.order_by()[: most - waiting if most is not None else None].count()
    return waiting


def _format_of(method: str) -> str:
    """What a pipeline, and a method that reads prompts alone, learns from is a reward model's: pairs."""
    format_ = METHODS[method].dataset_format if method in METHODS else Dataset.Format.PREFERENCE
    return format_ if format_ in (Dataset.Format.SFT, Dataset.Format.UNPAIRED) else Dataset.Format.PREFERENCE


def _read_by(format_: str) -> Iterable[QuerySet[Any]]:
    in_training = Q(prompt__split=Prompt.Split.TRAIN)
    of_answer = Q(completion__prompt__split=Prompt.Split.TRAIN, completion__quarantined=False)
    # The best rank is 1, so a rank above it says that somebody lost.
    decided = Exists(Candidate.objects.filter(preference=OuterRef("pk"), rank__gt=1))
    if format_ == Dataset.Format.PREFERENCE:
        yield Preference.objects.usable().filter(in_training, decided)
    if format_ == Dataset.Format.UNPAIRED:
        yield Preference.objects.usable().filter(in_training, all_bad=True)
        yield Rating.objects.usable().filter(of_answer)
    yield Correction.objects.usable().filter(of_answer)
