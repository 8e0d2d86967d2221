"""Judgements as they stood at the cut-off, streamed prompt by prompt, in constant memory.

Each kind is one query in the order of its prompts, read through a server-side cursor where the database has
them; the streams are merged, and the texts are fetched for some thousand judgements at a time. Order is by
ids alone, so that every database gives the same groups in the same order.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from django.db import connection, transaction
from django.db.models import BooleanField, F, Q, QuerySet, Value
from django.db.models.expressions import RawSQL

from feedback.models import Candidate, Correction, Preference, Rating
from feedback.services.set_aside import set_aside_as_of
from inference.models import Completion, Prompt
from projects.models import Project
from training.services.data import group
from training.services.data.raters import as_text, judge_keys, last_within_cap, read_raters
from training.services.filters import DatasetFilters

FETCH = 5_000  # rows of a cursor at a time
BATCH = 4_000  # judgements whose texts are in memory at once
IDS_A_QUERY = 8_000  # SQLite takes 32,766 parameters

# (prompt id, kind, rows of one kind on this prompt)
Part = tuple[str, int, list[tuple[Any, ...]]]
PREFERENCES, RATINGS, CORRECTIONS = range(3)
IS_FINAL = 3  # where a row says so


@dataclass
class Counts:
    """What passed the filters, before anything is said about its worth."""

    judgements: Counter[str]
    judges: Counter[str]
    drops: Counter[str]


def read_groups(
    project: Project, filters: DatasetFilters, cutoff: datetime, counts: Counts
) -> Iterator[group.Group]:
    """The training prompts with usable judgements, in the order of their ids; drops go to `counts`."""
    with reading():
        reader = _Reader(project, filters, cutoff, counts)
        yield from reader.groups()


@contextmanager
def reading() -> Iterator[None]:
    """Where cursors live on the server, they need a transaction; elsewhere one would only lock others out."""
    is_postgres = connection.vendor == "postgresql"
    scope: AbstractContextManager[Any] = transaction.atomic() if is_postgres else nullcontext()
    with scope:
        if is_postgres:
            with connection.cursor() as cursor:
                # All rows are wanted, not the first ones soon; and sorts fit into this.
                cursor.execute("SET LOCAL cursor_tuple_fraction = 1.0")
                cursor.execute("SET LOCAL work_mem = '64MB'")
                cursor.execute("SET LOCAL jit = off")
        yield


class _Reader:
    def __init__(self, project: Project, filters: DatasetFilters, cutoff: datetime, counts: Counts) -> None:
        self.project = project
        self.filters = filters
        self.cutoff = cutoff
        self.counts = counts
        self.tags = set(filters.tags)
        self.versions = {_label(project, name) for name in filters.versions}
        self.raters = read_raters(project, cutoff)
        self.set_aside = {str(id_): was for id_, was in set_aside_as_of(project, cutoff).items()}
        # Without a share of older rows the older judgements need not be read.
        self.since = filters.since if filters.replay_share else None
        if filters.per_rater_cap:
            self.raters.last = self._last_within_cap()
        self._count_withdrawn()

    def groups(self) -> Iterator[group.Group]:
        parts = heapq.merge(*self._streams(), key=itemgetter(0, 1))
        prompts = groupby(parts, key=itemgetter(0))
        while batch := _batch(prompts):
            yield from self._resolve(batch)

    def _streams(self) -> list[Iterator[Part]]:
        kinds = self.filters.kinds
        streams = []
        if "preference" in kinds:
            streams.append(_parts(PREFERENCES, self._preferences()))
        if "rating" in kinds:
            streams.append(_parts(RATINGS, self._ratings()))
        if "correction" in kinds:
            streams.append(_parts(CORRECTIONS, self._corrections()))
        return streams

    # --- queries --------------------------------------------------------------------------------------
    # Each row: prompt id, id, judge, is it a reviewer's last word, created where it matters, then what the
    # kind says.
    def _preferences(self) -> Iterator[tuple[Any, ...]]:
        """A row a candidate, in shown order."""
        rows = Candidate.objects.filter(
            preference__in=self._standing(Preference.objects.filter(project=self.project))
        ).order_by("preference__prompt_id", "preference_id", "position")
        return self._rows(
            rows,
            "preference__",
            "preference__prompt_id",
            "preference_id",
            "preference__all_bad",
            "preference__strength",
            as_text("completion_id"),
            "rank",
        )

    def _ratings(self) -> Iterator[tuple[Any, ...]]:
        rows = self._standing(Rating.objects.filter(project=self.project))
        if self.filters.aspects:
            rows = rows.filter(aspect__in=self.filters.aspects)
        rows = rows.order_by("completion__prompt_id", "id")
        return self._rows(
            rows, "", "completion__prompt_id", "id", as_text("completion_id"), "aspect", "value"
        )

    def _corrections(self) -> Iterator[tuple[Any, ...]]:
        rows = self._standing(Correction.objects.filter(project=self.project))
        rows = rows.order_by("completion__prompt_id", "id")
        return self._rows(rows, "", "completion__prompt_id", "id", as_text("completion_id"), "text")

    def _rows(
        self, rows: QuerySet[Any], prefix: str, prompt: str, id_: str, *said: Any
    ) -> Iterator[tuple[Any, ...]]:
        created = [f"{prefix}created"] if self.since else []
        is_final = Value(False) if rows.model is Correction else F(f"{prefix}is_final")
        fields = (as_text(prompt), as_text(id_), f"{prefix}judge", is_final, *created, *said)
        return rows.values_list(*fields).iterator(chunk_size=FETCH)

    def _standing(self, rows: Any) -> Any:
        """Those of the filters that the database knows."""
        return self._asked_for(rows.before(self.cutoff))

    def _asked_for(self, rows: Any) -> Any:
        filters = self.filters
        rows = rows.filter(source__in=filters.sources)
        if filters.since is not None and not filters.replay_share:
            rows = rows.filter(created__gte=filters.since)
        if filters.raters:
            rows = rows.filter(judge__in=judge_keys(filters.raters))
        if filters.not_raters:
            rows = rows.exclude(judge__in=judge_keys(filters.not_raters))
        return rows

    def _count_withdrawn(self) -> None:
        """What was taken back, or said anew, by the cut-off: it makes no row, and the dataset says so."""
        for kind, model in (("preference", Preference), ("rating", Rating), ("correction", Correction)):
            if kind not in self.filters.kinds:
                continue
            rows = model.objects.filter(project=self.project, created__lte=self.cutoff)
            for reason in ("retracted", "superseded"):
                gone = self._asked_for(rows.filter(**{f"{reason}__lte": self.cutoff})).count()
                if gone:
                    self.counts.drops[reason] += gone

    def _last_within_cap(self) -> dict[str, str]:
        kinds: list[tuple[str, Any, str]] = [
            ("preference", Preference, "prompt"),
            ("rating", Rating, "completion__prompt"),
            ("correction", Correction, "completion__prompt"),
        ]
        streams = []
        for kind, model, prompt in kinds:
            if kind in self.filters.kinds:
                rows = self._standing(model.objects.filter(project=self.project))
                rows = rows.filter(**{f"{prompt}__split": Prompt.Split.TRAIN}).order_by("id")
                streams.append(rows.values_list(as_text("id"), "judge").iterator(chunk_size=FETCH))
        return last_within_cap(streams, self.filters.per_rater_cap)

    # --- one batch ------------------------------------------------------------------------------------
    def _resolve(self, batch: list[tuple[str, list[Part]]]) -> Iterator[group.Group]:
        prompts = {
            id_: (messages, split, tags, erased)
            for id_, messages, split, tags, erased in _by_id(
                Prompt.objects, [id_ for id_, _ in batch], "messages", "split", "tags", "erased"
            )
        }
        wanted = _completions_of(batch)
        answers = {
            row[0]: self._answer(*row)
            for row in _by_id(
                Completion.objects, wanted, "text", "state", "finish_reason", "quarantined", "version_label"
            )
        }
        for prompt_id, parts in batch:
            found = prompts.get(prompt_id)
            if found is None:
                continue  # deleted meanwhile
            messages, split, tags, erased = found
            if erased is not None:
                self._count_erased(parts)
                continue
            if self.tags and not self.tags.intersection(tags):
                continue
            made = group.Group(hyphenated(prompt_id), messages)
            is_gate = split in Prompt.HELD_OUT
            for _, kind, rows in parts:
                self._fill(made, kind, rows, answers, is_gate)
            if made.preferences or made.ratings or made.corrections:
                yield made

    def _answer(
        self, id_: str, text: str, state: str, finish_reason: str, quarantined: bool, version: str
    ) -> group.Answer:
        if self.set_aside:  # as it was then, not as it is now
            quarantined = self.set_aside.get(hyphenated(id_), quarantined)
        return group.Answer(text, state, finish_reason, quarantined, version)

    def _count_erased(self, parts: list[Part]) -> None:
        """Judgements of answers that went with the person who asked."""
        for _, kind, rows in parts:
            count = len({row[1] for row in rows})
            self.counts.judgements[("preference", "rating", "correction")[kind]] += count
            self.counts.drops["erased"] += count

    def _fill(
        self,
        made: group.Group,
        kind: int,
        rows: list[tuple[Any, ...]],
        answers: dict[str, group.Answer],
        is_gate: bool,
    ) -> None:
        if kind == PREFERENCES:
            compared = [list(shown) for _, shown in groupby(rows, key=itemgetter(1))]
            settled = {_compared(shown) for shown in compared if shown[0][IS_FINAL]}
            for shown in compared:
                is_settled = bool(settled) and not shown[0][IS_FINAL] and _compared(shown) in settled
                if self._counts_for("preference", shown[0], is_gate, is_settled):
                    self._add_preference(made, shown[0], shown, answers)
        else:
            name = "rating" if kind == RATINGS else "correction"
            last_words = {row[-3:-1] for row in rows if row[IS_FINAL]}  # (answer, aspect)
            for row in rows:
                is_settled = bool(last_words) and not row[IS_FINAL] and row[-3:-1] in last_words
                if self._counts_for(name, row, is_gate, is_settled):
                    self._add_single(made, kind, row, answers)

    def _counts_for(self, kind: str, row: tuple[Any, ...], is_gate: bool, is_settled: bool) -> bool:
        """Whether the judgement is read on; counted either way."""
        self.counts.judgements[kind] += 1
        judge = row[2]
        raters = self.raters
        reason = None
        if is_gate:
            reason = "gate"
        elif judge in raters.excluded:
            reason = "quarantined_rater"
        elif raters.is_light(judge, self.filters.min_weight):
            reason = "low_weight"
        elif is_settled:
            reason = "adjudicated"
        elif raters.last and row[1] > raters.last.get(judge, row[1]):
            reason = "per_rater_cap"
        if reason is not None:
            self.counts.drops[reason] += 1
            return False
        self.counts.judges[judge] += 1
        return True

    def _add_preference(
        self,
        made: group.Group,
        head: tuple[Any, ...],
        candidates: list[tuple[Any, ...]],
        answers: dict[str, group.Answer],
    ) -> None:
        ranks = []
        for row in candidates:
            answer = answers.get(row[-2])
            if answer is not None and (not self.versions or answer.version in self.versions):
                ranks.append((answer, row[-1]))
        if len(ranks) < 2:
            self.counts.drops["other_version"] += 1
            return
        judge, all_bad, strength = head[2], head[-4], head[-3]
        made.preferences.append(
            group.Preference(
                hyphenated(head[1]),
                judge,
                self.raters.weight(judge),
                self._is_new(head),
                [(answer, None) for answer, _ in ranks] if all_bad else ranks,
                bool(all_bad),
                strength,
            )
        )

    def _add_single(
        self, made: group.Group, kind: int, row: tuple[Any, ...], answers: dict[str, group.Answer]
    ) -> None:
        answer = answers.get(row[-3] if kind == RATINGS else row[-2])
        if answer is None or (self.versions and answer.version not in self.versions):
            self.counts.drops["other_version"] += 1
            return
        id_, judge = hyphenated(row[1]), row[2]
        weight, is_new = self.raters.weight(judge), self._is_new(row)
        if kind == RATINGS:
            aspect, value = row[-2:]
            score = self.raters.score(judge, aspect, value)
            made.ratings.append(group.Rating(id_, judge, weight, is_new, answer, aspect, score))
        else:
            better = group.Answer(row[-1], quarantined=answer.quarantined)
            made.corrections.append(group.Correction(id_, judge, weight, is_new, answer, better))

    def _is_new(self, row: tuple[Any, ...]) -> bool:
        return self.since is None or row[4] >= self.since


def _compared(shown: list[tuple[Any, ...]]) -> frozenset[str]:
    """The answers of one preference, whatever their order."""
    return frozenset(row[-2] for row in shown)


def hyphenated(id_: str) -> str:
    """An id in its usual form; SQLite keeps it without hyphens."""
    if len(id_) == 36:
        return id_
    return f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}"


def _label(project: Project, name: str) -> str:
    """`v7` is the project's own version; any other name is taken as it is."""
    return f"{project.slug}@{name}" if name[:1] == "v" and name[1:].isdecimal() else name


def _parts(kind: int, rows: Iterator[tuple[Any, ...]]) -> Iterator[Part]:
    for prompt_id, of_prompt in groupby(rows, key=itemgetter(0)):
        yield prompt_id, kind, list(of_prompt)


def _batch(prompts: Iterator[tuple[str, Iterator[Part]]]) -> list[tuple[str, list[Part]]]:
    """Whole prompts with about BATCH rows between them; empty at the end."""
    batch, size = [], 0
    for prompt_id, parts in prompts:
        found = list(parts)
        batch.append((prompt_id, found))
        size += sum(len(rows) for _, _, rows in found)
        if size >= BATCH:
            break
    return batch


def _completions_of(batch: list[tuple[str, list[Part]]]) -> list[str]:
    wanted: dict[str, None] = {}
    for _, parts in batch:
        for _, kind, rows in parts:
            place = -3 if kind == RATINGS else -2
            wanted.update((row[place], None) for row in rows)
    return list(wanted)


def _by_id(manager: Any, ids: list[str], *fields: str) -> Iterator[tuple[Any, ...]]:
    """(id as text, fields...) of the rows with these ids, in no order."""
    remaining = iter(ids)
    while some := list(islice(remaining, IDS_A_QUERY)):
        yield from manager.filter(_among(some)).order_by().values_list(as_text("pk"), *fields)


def _among(ids: list[str]) -> Any:
    """As `pk__in`, of which thousands of parameters took a tenth of the time: PostgreSQL takes one array."""
    if connection.vendor != "postgresql":
        return Q(pk__in=ids)
    return RawSQL("id = ANY(%s::uuid[])", [ids], output_field=BooleanField())
