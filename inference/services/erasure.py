"""Of a person who is erased: what they asked and were answered, wherever it was asked.

A prompt is theirs when it stands in a conversation of theirs, or when nobody else asked the same. What others
asked in the same words stays, without this person's name at the answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, Min, OuterRef, Q
from django.utils import timezone

from inference.models import Completion, Conversation, Prompt
from projects.models import Project
from projects.people import Person
from projects.services.hourly import count_again

TOMBSTONE = "[erased]"
BATCH = 500


def holdings(person: Person, asked: list[UUID]) -> dict[str, int]:
    return {
        "conversations": _conversations(person).filter(~Q(title="") | Q(deleted=None)).count(),
        "prompts": len(asked),
        "answers to them": sum(
            _answers(some).exclude(text="", subject="", error="").count() for some in _batches(asked)
        ),
        "answers to others' questions": _named(person).count()
        - sum(_answers(some).filter(subject=person.subject).count() for some in _batches(asked))
        if person.subject
        else 0,
    }


def own_prompts(person: Person, *, battles: Iterable[UUID] = ()) -> list[UUID]:
    """Ids of the prompts whose text is theirs and is still there. `battles` are prompts of their battles."""
    live = Prompt.objects.filter(project=person.project, erased=None).order_by("id")
    if person.user is not None:
        in_talk = live.filter(conversation__owner=person.user).values_list("pk", flat=True)
        asked = live.filter(pk__in=list(battles), external_id=None).values_list("pk", flat=True)
        return sorted({*in_talk, *asked})
    others = Completion.objects.filter(prompt=OuterRef("pk"), api_key__isnull=False).exclude(
        subject=person.subject
    )
    mine = Completion.objects.filter(prompt=OuterRef("pk"), subject=person.subject)
    return list(
        live.filter(Exists(mine), ~Exists(others), conversation=None, external_id=None).values_list(
            "pk", flat=True
        )
    )


def answers_to(prompts: list[UUID]) -> list[UUID]:
    """The ids of all answers to these prompts."""
    found: list[UUID] = []
    for some in _batches(prompts):
        found += Completion.objects.filter(prompt__in=some).values_list("pk", flat=True)
    return found


def erase_texts(person: Person, prompts: list[UUID]) -> None:
    """Tombstones in place of their prompts and the answers to them. Safe to repeat; a batch a transaction."""
    now = timezone.now()
    for some in _batches(prompts):
        with transaction.atomic():
            _answers(some).update(text="", error="", subject="", api_key=None, quarantined=True)
            rows = list(Prompt.objects.filter(pk__in=some, erased=None))
            for prompt in rows:
                prompt.messages = [{"role": "user", "content": TOMBSTONE}]
                prompt.digest = hashlib.sha256(f"erased:{prompt.pk}".encode()).hexdigest()
                prompt.external_id, prompt.tags, prompt.erased = None, [], now
            Prompt.objects.bulk_update(rows, ["messages", "digest", "external_id", "tags", "erased"])
    if person.subject:
        _named(person).update(subject="")
    _conversations(person).update(title="", head=None)
    _conversations(person).filter(deleted=None).update(deleted=now)


def erase_late_answers(project: Project, since: datetime) -> int:
    """Answers that were still being written when their prompt was erased, from `since` on. Safe to repeat."""
    prompts = Prompt.objects.filter(project=project, erased__gte=since).values("pk")
    late = Completion.objects.filter(prompt__in=prompts).exclude(text="", error="", subject="")
    return late.exclude(state=Completion.State.RUNNING).update(
        text="", error="", subject="", api_key=None, quarantined=True
    )


def drop_conversations(person: Person, held: set[UUID]) -> None:
    """Their conversations as rows, but those with a prompt in `held`: others' judgements hang on it."""
    for one in _conversations(person):
        if not held.intersection(one.prompts.values_list("pk", flat=True)):
            with transaction.atomic():
                # Its answers, and what was said of them, came after its first question.
                oldest = one.prompts.aggregate(first=Min("created"))["first"]
                count_again(project=person.project, since=oldest)
                one.delete()


def _conversations(person: Person) -> Any:
    found = Conversation.objects.filter(project=person.project)
    return found.filter(owner=person.user) if person.user is not None else found.none()


def _answers(prompts: list[UUID]) -> Any:
    return Completion.objects.filter(prompt__in=prompts)


def _named(person: Person) -> Any:
    return Completion.objects.filter(project=person.project, subject=person.subject)


def _batches(ids: Iterable[UUID]) -> Iterator[list[UUID]]:
    remaining = iter(ids)
    while some := list(islice(remaining, BATCH)):
        yield some
