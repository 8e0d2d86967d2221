"""One pass from the database to rows: what each judgement is worth, less what must not enter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from inference.services.prompts import hash_share
from projects.models import Project
from training.models import Dataset
from training.services.data.group import Group, Messages, Row
from training.services.data.labels import make_demonstrations, make_labels
from training.services.data.overlap import GateIndex, asked_in, gate_index
from training.services.data.pairs import make_pairs
from training.services.data.sameness import normalised
from training.services.data.source import Counts, read_groups
from training.services.data.steering import is_steered, read_steering
from training.services.data.tally import Tally
from training.services.data.unlabelled import read_prompts, read_texts
from training.services.filters import DatasetFilters

HELDOUT_SHARE = 0.1
# From so many prompts on, at least one is held out.
HELDOUT_FROM_PROMPTS = 10
NOBODY = -1.0  # as the limit of held-out keys

Format = Dataset.Format
_MAKERS: dict[str, Callable[[Group, DatasetFilters, Counter[str]], Iterator[Row]]] = {
    Format.PREFERENCE: make_pairs,
    Format.SFT: make_demonstrations,
    Format.UNPAIRED: make_labels,
}


# Hears every so often how many judgements were read; raises Stopped to call the reading off.
Watch = Callable[[int], None]
WATCH_EVERY = 2_000


class Stopped(Exception):
    """Somebody called the reading off."""


@dataclass(frozen=True)
class Choice:
    """What a first pass found out for a second: which old rows to replay, and what is held out for want."""

    replay_below: int | None = None  # keys of older rows up to this one stay
    heldout_up_to: float | None = None  # in place of HELDOUT_SHARE


@dataclass
class Pass:
    """A pass over the data. `tally` is complete when the rows have been read to their end."""

    project: Project
    format: str
    filters: DatasetFilters
    cutoff: datetime
    choice: Choice = Choice()
    watch: Watch | None = None
    tally: Tally = field(default_factory=Tally)
    least_heldout_key: float = 1.0
    new_rows: int = 0
    old_keys: list[int] = field(default_factory=list)

    def rows(self) -> Generator[tuple[Row, bool]]:
        """Each row, and whether it is held out. Close it: a cursor may be open behind it."""
        index = gate_index(self.project, self.cutoff, is_near=self.filters.gate_overlap == "near")
        self.tally.gate_prompts = index.prompts
        steering = read_steering()
        seen: set[int] = set()
        told = 0
        for key, rows in self._by_prompt(index):
            if self.watch is not None and (read := self._read()) - told >= WATCH_EVERY:
                told = read
                self.watch(read)
            limit = HELDOUT_SHARE if self.choice.heldout_up_to is None else self.choice.heldout_up_to
            is_heldout = key < limit or key == self.choice.heldout_up_to
            kept = 0
            for row in rows:
                reason = None
                if is_steered(row, steering):
                    reason = "steering_token"
                elif row.key in seen:
                    reason = "near_duplicate"
                elif self.filters.per_prompt_cap and kept >= self.filters.per_prompt_cap and row.prompt_id:
                    reason = "per_prompt_cap"
                else:
                    # Before the replay's sample, so that the first pass and the second see the same rows.
                    seen.add(row.key)
                    kept += 1
                    reason = None if self._is_wanted(row) else "not_replayed"
                if reason is not None:
                    self.tally.drops[reason] += 1
                    continue
                self.least_heldout_key = min(self.least_heldout_key, key)
                self.tally.add(row, is_heldout=is_heldout)
                yield row, is_heldout

    def read(self) -> Tally:
        """To the end, for the numbers alone."""
        with closing(self.rows()) as rows:
            for _ in rows:
                pass
        return self.tally

    def _read(self) -> int:
        """Judgements so far, or rows of a format that reads none."""
        return self.tally.judgements.total() or self.tally.train + self.tally.heldout

    def next_choice(self) -> Choice | None:
        """What another pass must do otherwise; None when this one stands."""
        if self.filters.replay_share and self.choice.replay_below is None:
            return Choice(replay_below=self._replay_limit())
        tally = self.tally
        if tally.heldout and not tally.train:
            return Choice(self.choice.replay_below, NOBODY)
        if (
            not tally.heldout
            and self.choice.heldout_up_to is None
            and tally.train_prompts >= HELDOUT_FROM_PROMPTS
        ):
            return Choice(self.choice.replay_below, self.least_heldout_key)
        return None

    def _is_wanted(self, row: Row) -> bool:
        """Whether a row is new, or one of the older ones that are replayed."""
        if not self.filters.replay_share:
            return True
        if self.choice.replay_below is not None:
            return row.is_new or row.key <= self.choice.replay_below
        if row.is_new:
            self.new_rows += 1
        else:
            self.old_keys.append(row.key)
        return True

    def _replay_limit(self) -> int:
        """The key up to which older rows are taken: keys are hashes, so the lowest are a fair sample."""
        share = self.filters.replay_share
        wanted = round(self.new_rows * share / (1 - share))
        if not wanted:
            return -1
        keys = sorted(self.old_keys)
        return keys[min(wanted, len(keys)) - 1] if keys else -1

    # --- prompt by prompt -----------------------------------------------------------------------------
    def _by_prompt(self, index: GateIndex) -> Iterator[tuple[float, Iterator[Row]]]:
        """The held-out key and the rows of each prompt or text that does not overlap with the gate."""
        if self.format in _MAKERS:
            yield from self._of_groups(index, _MAKERS[self.format])
        elif self.format == Format.PROMPTS:
            for row in read_prompts(self.project, self.filters, self.cutoff, self.tally.drops):
                if not self._overlaps(index.of_messages(asked_in(row.messages)), 1):
                    yield heldout_key(self.project, _first_words(row.messages)), iter([row])
        else:
            for row in read_texts(self.project, self.filters, self.cutoff, self.tally.drops):
                text = row.answers[0].text
                if not self._overlaps(index.of_document(text), 1):
                    yield heldout_key(self.project, text), iter([row])

    def _of_groups(
        self, index: GateIndex, make: Callable[[Group, DatasetFilters, Counter[str]], Iterator[Row]]
    ) -> Iterator[tuple[float, Iterator[Row]]]:
        tally = self.tally
        counts = Counts(tally.judgements, tally.judges, tally.drops)
        for group in read_groups(self.project, self.filters, self.cutoff, counts):
            judged = len(group.preferences) + len(group.ratings) + len(group.corrections)
            if not self._overlaps(index.of_messages(asked_in(group.messages)), judged):
                yield (
                    heldout_key(self.project, _first_words(group.messages)),
                    make(group, self.filters, tally.drops),
                )

    def _overlaps(self, reason: str | None, count: int) -> bool:
        if reason is not None:
            self.tally.drops[reason] += count
        return reason is not None


def survey(
    project: Project,
    format_: str,
    filters: DatasetFilters,
    cutoff: datetime,
    watch: Watch | None = None,
) -> tuple[Tally, Choice]:
    """The numbers of the dataset that compiling would make, and the choices behind it."""
    choice = Choice()
    while True:
        done = Pass(project, format_, filters, cutoff, choice, watch)
        tally = done.read()
        following = done.next_choice()
        if following is None:
            return tally, choice
        choice = following


def heldout_key(project: Project, text: str) -> float:
    """In [0, 1), fixed for a text but for case and spaces; another salt than the split's.

    Over the first user message, as the split is: a conversation stays on one side.
    """
    return hash_share(f"heldout:{project.salt}", normalised(text))


def _first_words(messages: Messages) -> str:
    return next((message["content"] for message in messages if message["role"] == "user"), "")
