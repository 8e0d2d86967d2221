"""Judgements by the hundred: the same rules as one by one, with a handful of queries for all.

What the checks of each would look up is looked up once, and rows wait until they are inserted together. One
that supersedes first has the waiting rows inserted and then goes the way of a single judgement; so the order
of the items is what counts, as it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from feedback.models import Candidate, Correction, Feedback, Flag, Preference, Rating
from feedback.services.set_aside import weigh_flags
from inference.models import Completion
from projects.errors import Problem
from projects.models import Project
from projects.services.outbox import record_events

_KINDS: tuple[type[Feedback], ...] = (Rating, Preference, Correction, Flag)
Insert = Callable[[], tuple[Any, bool]]


@dataclass(frozen=True)
class _Waiting:
    place: int
    row: Any
    sides: Sequence[Candidate]
    told: dict[str, Any]
    alone: Insert  # inserts it by itself


class Batch:
    """One request's judgements by one key. Use it inside a transaction, and `finish` at the end."""

    def __init__(self, *, project: Project, completions: Iterable[UUID], ids: Iterable[UUID]) -> None:
        self.project = project
        self.flagged: set[UUID] = set()
        self.place = 0  # of the item that is being recorded
        self.changed: dict[int, Any] = {}  # place -> (row, is_replay) or Problem, where it came out otherwise
        self.completions = {
            one.pk: one for one in Completion.objects.order_by().filter(project=project, pk__in=completions)
        }
        self._ids: set[UUID] = set()
        if named := set(ids):
            for model in _KINDS:
                rows = model._default_manager.order_by().filter(pk__in=named)
                self._ids |= set(rows.values_list("pk", flat=True))
        self._waiting: list[_Waiting] = []
        self._waiting_ids: set[UUID] = set()

    def may_exist(self, feedback_id: UUID) -> bool:
        """Whether a row of any kind has this id, as far as we know; those that wait are inserted first."""
        if feedback_id in self._waiting_ids:
            self.flush()
        return feedback_id in self._ids

    def take(self, row: Any, sides: Sequence[Candidate], told: dict[str, Any], alone: Insert) -> None:
        """Have it inserted with the others, at the next `flush`."""
        self._waiting.append(_Waiting(self.place, row, sides, told, alone))
        self._waiting_ids.add(row.pk)

    def note(self, row: Any) -> None:
        """A row that was inserted by itself."""
        self._ids.add(row.pk)

    def finish(self) -> None:
        """Insert what waits, and weigh the flags of all: once, so that the answers are locked in order."""
        self.flush()
        weigh_flags(project=self.project, completions=self.flagged)

    def flush(self) -> None:
        """Insert what waits."""
        waiting, self._waiting = self._waiting, []
        self._ids |= self._waiting_ids
        self._waiting_ids = set()
        if waiting:
            self._insert(waiting)

    def _insert(self, waiting: Sequence[_Waiting]) -> None:
        """All at once; where the database refuses, by halves, down to the one that it refuses.

        So a second judgement of the same thing is found where it is, and nothing is looked up beforehand: an
        answer may have any number of judgements.
        """
        if len(waiting) == 1:
            [one] = waiting
            try:
                self.changed[one.place] = one.alone()
            except Problem as problem:
                self.changed[one.place] = problem
            return
        try:
            with transaction.atomic():
                for model in _KINDS:
                    model._default_manager.bulk_create([one.row for one in waiting if type(one.row) is model])
                Candidate.objects.bulk_create([side for one in waiting for side in one.sides])
                record_events(
                    project=self.project, name="feedback.recorded", data=[one.told for one in waiting]
                )
        except IntegrityError:
            half = len(waiting) // 2
            self._insert(waiting[:half])
            self._insert(waiting[half:])
