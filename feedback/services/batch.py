"""Judgements by the hundred: the same rules as one by one, with a handful of queries for all.

What the checks of each would look up is looked up once, and rows wait until they are inserted together. What
is not plain (a replay, a second judgement of the same thing, one that supersedes) first has the waiting rows
inserted, and then goes the way of a single judgement; so the order of the items is what counts, as it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from feedback.models import Candidate, Correction, Feedback, Flag, Preference, Rating
from inference.models import Completion
from projects.errors import Problem
from projects.models import Project
from projects.services.outbox import record_events

# What a second judgement by the same judge would have in common with the first: the columns of `stands_once`.
_SAME: dict[type[Feedback], tuple[str, ...]] = {
    Rating: ("completion_id", "aspect"),
    Preference: ("candidate_set",),
    Correction: ("completion_id",),
    Flag: ("completion_id", "reason"),
}
Insert = Callable[[], tuple[Any, bool]]


@dataclass(frozen=True)
class _Waiting:
    place: int
    row: Any
    sides: Sequence[Candidate]
    told: dict[str, Any]
    alone: Insert  # inserts it by itself


class Batch:
    """One request's judgements by one key. Use it inside a transaction, and `flush` at the end."""

    def __init__(
        self,
        *,
        project: Project,
        kinds: Iterable[type[Feedback]],
        completions: Iterable[UUID],
        ids: Iterable[UUID],
        judges: Iterable[str],
    ) -> None:
        self.project = project
        self.place = 0  # of the item that is being recorded
        self.changed: dict[int, Any] = {}  # place -> (row, is_replay) or Problem, where it came out otherwise
        wanted, named, who, asked = set(completions), set(ids), set(judges), set(kinds)
        self.completions = {
            one.pk: one for one in Completion.objects.order_by().filter(project=project, pk__in=wanted)
        }
        self._ids: set[UUID] = set()
        self._standing: set[tuple[Any, ...]] = set()
        for model, fields in _SAME.items():
            rows = model._default_manager.order_by()
            if named:
                self._ids |= set(rows.filter(pk__in=named).values_list("pk", flat=True))
            if model not in asked:
                continue
            about = (
                {"candidates__completion__in": wanted} if model is Preference else {"completion__in": wanted}
            )
            stands = rows.filter(judge__in=who, retracted=None, superseded=None, **about)
            self._standing |= {(model, *key) for key in stands.values_list("judge", *fields)}
        self._waiting: list[_Waiting] = []

    def may_exist(self, feedback_id: UUID) -> bool:
        """Whether a row of any kind has this id, as far as we know; those that wait are inserted first."""
        if any(one.row.pk == feedback_id for one in self._waiting):
            self.flush()
        return feedback_id in self._ids

    def take(self, row: Any, sides: Sequence[Candidate], told: dict[str, Any], alone: Insert) -> bool:
        """Have it inserted with the others. False, with nothing waiting any more, when it is not plain."""
        key = (type(row), row.judge, *(getattr(row, field) for field in _SAME[type(row)]))
        if row.supersedes_id is not None or key in self._standing:
            self.flush()
            return False
        self._standing.add(key)
        self._waiting.append(_Waiting(self.place, row, sides, told, alone))
        return True

    def note(self, row: Any) -> None:
        """A row that was inserted by itself."""
        self._ids.add(row.pk)

    def flush(self) -> None:
        """Insert what waits. Where the database refuses, somebody was faster, and each goes in by itself."""
        waiting, self._waiting = self._waiting, []
        self._ids |= {one.row.pk for one in waiting}
        try:
            with transaction.atomic():
                for model in _SAME:
                    rows = [one.row for one in waiting if type(one.row) is model]
                    model._default_manager.bulk_create(rows)
                Candidate.objects.bulk_create([side for one in waiting for side in one.sides])
                record_events(
                    project=self.project, name="feedback.recorded", data=[one.told for one in waiting]
                )
        except IntegrityError:
            for one in waiting:
                try:
                    self.changed[one.place] = one.alone()
                except Problem as problem:
                    self.changed[one.place] = problem
