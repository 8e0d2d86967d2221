"""Of a person who is erased: what they judged, what they were asked, and what was thought of them.

Removed, a judgement is gone. Anonymised, it says what it said, under a pseudonym that leads to nobody; words
in it are words of theirs, so comments go, and corrections are removed whatever was chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.db.models import F, Min
from django.utils import timezone

from feedback.models import (
    Assignment,
    Battle,
    Correction,
    OptOut,
    Preference,
    RaterEvent,
    Rating,
    SetAside,
    Standing,
    Task,
)
from feedback.services.raters import excluded_raters, rater_weights
from feedback.services.record import KINDS
from inference.models import Completion
from projects.people import Person
from projects.services.hourly import count_again

BATCH = 1_000


def holdings(person: Person) -> dict[str, int]:
    counts = {f"{name}s": _judgements(person, model).count() for name, model in KINDS.items()}
    return {**counts, **{name: rows.count() for name, rows in _about(person).items()}}


def can_be_anonymised(person: Person) -> bool:
    """Whether their labels count in full: without a name nobody can weigh or quarantine them any more."""
    if person.user is None:
        return True
    key, now = f"user:{person.user.pk}", timezone.now()
    return (
        key not in excluded_raters(person.project, now)
        and rater_weights(person.project, now).get(key, 1.0) >= 1.0
    )


def battle_prompts(person: Person) -> list[UUID]:
    """Prompts of battles that nobody else fought on."""
    if person.user is None:
        return []
    mine = Battle.objects.filter(project=person.project, owner=person.user)
    prompts = set(mine.values_list("left__prompt", flat=True))
    others = Battle.objects.filter(project=person.project, left__prompt__in=prompts).exclude(
        owner=person.user
    )
    return list(prompts - set(others.values_list("left__prompt", flat=True)))


def judgement_ids(person: Person, *, corrections_only: bool) -> Iterator[UUID]:
    """What will be removed: their judgements, or of the anonymised those with words that teach."""
    models: list[Any] = [Correction] if corrections_only else [Rating, Preference, Correction]
    for model in models:
        yield from _judgements(person, model).values_list("pk", flat=True).iterator(chunk_size=BATCH)


def erase_judgements(person: Person, *, pseudonym: str, secret: str, anonymise: bool) -> None:
    """Remove or anonymise all of them. Safe to repeat; a batch a transaction."""
    for model in KINDS.values():
        is_kept = anonymise and model is not Correction
        while ids := list(_judgements(person, model).values_list("pk", flat=True)[:BATCH]):
            with transaction.atomic():
                LogEntry.objects.filter(object_id__in=[str(id_) for id_ in ids]).update(
                    object_repr=pseudonym, change_message=""
                )
                if is_kept:
                    _anonymise(model, ids, pseudonym, secret)
                else:
                    oldest = model.objects.filter(pk__in=ids).aggregate(first=Min("created"))["first"]
                    count_again(project=person.project, since=oldest)
                    model.objects.filter(supersedes__in=ids).update(supersedes=None)
                    model.objects.filter(pk__in=ids).delete()


def erase_about(person: Person) -> None:
    """Their places in the queue, battles, standing and wishes. Questions that waited for them are free."""
    if person.user is not None:
        leased = Assignment.objects.filter(
            project=person.project, rater=person.user, state=Assignment.State.LEASED
        )
        with transaction.atomic():
            tasks = list(leased.values_list("task", flat=True))
            Task.objects.filter(pk__in=tasks, held__gt=0).update(held=F("held") - 1)
            leased.delete()
        SetAside.objects.filter(project=person.project, released_by=person.user).update(released_by=None)
    for rows in _about(person).values():
        rows.delete()


def close_tasks(prompts: list[UUID]) -> None:
    """Nobody is asked about a tombstone."""
    for start in range(0, len(prompts), BATCH):
        Task.objects.filter(prompt__in=prompts[start : start + BATCH]).update(is_open=False, gold=None)


def judged_by_others(prompts: list[UUID]) -> set[UUID]:
    """Those of these prompts that a judgement or a question to raters still hangs on."""
    held: set[UUID] = set()
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        held.update(Preference.objects.filter(prompt__in=some).values_list("prompt", flat=True))
        held.update(Task.objects.filter(prompt__in=some).values_list("prompt", flat=True))
        answers = Completion.objects.filter(prompt__in=some)
        for name in ("ratings", "corrections", "flags", "candidacies"):
            held.update(answers.filter(**{f"{name}__isnull": False}).values_list("prompt", flat=True))
    return held


def _anonymise(model: Any, ids: list[UUID], pseudonym: str, secret: str) -> None:
    """One pseudonym for each way in which they judged, so that no two rows of theirs meet."""
    rows = list(model.objects.filter(pk__in=ids))
    for row in rows:
        way = hashlib.sha256(f"{secret}:{row.judge}".encode()).hexdigest()[:8]
        row.judge = f"{pseudonym}:{way}"
        row.rater = row.api_key = row.assignment = None
        row.subject, row.comment = "", ""
        row.body_digest = hashlib.sha256(f"{secret}:{row.pk}".encode()).hexdigest()
    model.objects.bulk_update(
        rows, ["judge", "rater", "api_key", "assignment", "subject", "comment", "body_digest"]
    )


def _judgements(person: Person, model: Any) -> Any:
    rows = model.objects.filter(project=person.project).order_by("pk")
    return rows.filter(rater=person.user) if person.user is not None else rows.filter(subject=person.subject)


def _about(person: Person) -> dict[str, Any]:
    """Rows that are about them and teach nothing."""
    if person.user is None:
        return {"opt-outs": OptOut.objects.filter(project=person.project, subject=person.subject)}
    of = {"project": person.project}
    return {
        "assignments": Assignment.objects.filter(**of, rater=person.user),
        "questions to them alone": Task.objects.filter(**of, only_for=person.user),
        "battles": Battle.objects.filter(**of, owner=person.user),
        "standings": Standing.objects.filter(**of, user=person.user),
        "rater events": RaterEvent.objects.filter(**of, rater=person.user),
    }
