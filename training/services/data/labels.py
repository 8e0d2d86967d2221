"""Judgements of one prompt to labelled answers and to demonstrations: pure, in the order of ids.

Each judgement votes good or bad on an answer, with its rater's weight; the heavier side is the label, and a
draw leaves the answer out. Demonstrations are corrections, and well rated answers where they are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from training.services.data.group import Answer, Correction, Group, Preference, Rating, Row
from training.services.data.pairs import whole_drop
from training.services.data.raters import NEUTRAL
from training.services.data.sameness import joined
from training.services.filters import DatasetFilters

Drops = Counter[str]
Judgement = Preference | Rating | Correction


class Votes:
    """For and against one text."""

    __slots__ = ("answer", "bad", "good", "is_written")

    def __init__(self, answer: Answer, is_written: bool) -> None:
        self.answer = answer
        self.good: list[Judgement] = []
        self.bad: list[Judgement] = []
        self.is_written = is_written  # by a person, as a correction

    def settle(self, drops: Drops) -> tuple[bool, list[Judgement]] | None:
        """The label and who is for it; None for a draw."""
        good, bad = (sum(one.weight for one in side) for side in (self.good, self.bad))
        if good == bad:
            drops["outvoted"] += len(self.good) + len(self.bad)
            return None
        label = good > bad
        if lost := len(self.bad if label else self.good):
            drops["outvoted"] += lost
        return label, self.good if label else self.bad


def make_labels(group: Group, filters: DatasetFilters, drops: Drops) -> Iterator[Row]:
    """Rows (completion) with a label."""
    for votes in _votes(group, filters, drops).values():
        settled = votes.settle(drops)
        if settled is None:
            continue
        label, judgements = settled
        if reason := _drop(votes.answer, is_good=label):
            drops[reason] += len(judgements)
            continue
        yield _row(group, votes.answer, judgements, label)


def make_demonstrations(group: Group, filters: DatasetFilters, drops: Drops) -> Iterator[Row]:
    """Rows (completion) to be imitated."""
    for votes in _votes(group, filters, drops).values():
        settled = votes.settle(drops)
        if settled is None:
            continue
        label, judgements = settled
        reason = _drop(votes.answer, is_good=label)
        if not label:
            reason = "not_good"
        elif not (votes.is_written or filters.good_answers):
            reason = "good_answers_off"
        elif reason is None and not votes.answer.ended:
            reason = "cut_answer"
        if reason is not None:
            # The vote of a correction against its original is no loss: the correction is the row.
            lost = sum(not (isinstance(one, Correction) and not label) for one in judgements)
            if lost:
                drops[reason] += lost
            continue
        yield _row(group, votes.answer, judgements, None)


def _votes(group: Group, filters: DatasetFilters, drops: Drops) -> dict[str, Votes]:
    """Text -> its votes, in the order in which the texts came up."""
    by_text: dict[str, Votes] = {}

    def vote(answer: Answer, judgement: Judgement, is_good: bool, is_written: bool = False) -> None:
        votes = by_text.setdefault(answer.text, Votes(answer, is_written))
        votes.is_written = votes.is_written or is_written
        (votes.good if is_good else votes.bad).append(judgement)

    for correction in group.corrections:
        vote(correction.better, correction, is_good=True, is_written=True)
        vote(correction.answer, correction, is_good=False)
    for rating in group.ratings:
        if abs(rating.score) < NEUTRAL:
            drops["neutral"] += 1
        else:
            vote(rating.answer, rating, is_good=rating.score > 0)
    for preference in group.preferences:
        if preference.all_bad:
            for answer, _ in preference.ranks:
                vote(answer, preference, is_good=False)
        elif reason := whole_drop(preference):
            drops[reason] += 1
        elif not filters.unpair:
            drops["only_relative"] += 1
        else:
            ranks = [rank for _, rank in preference.ranks if rank is not None]
            for answer, rank in preference.ranks:
                if rank in (min(ranks), max(ranks)):
                    vote(answer, preference, is_good=rank == min(ranks))
    return by_text


def _drop(answer: Answer, *, is_good: bool) -> str | None:
    """Why an answer makes no row; None when it does."""
    if not answer.is_finished:
        return "unfinished"
    if answer.quarantined:
        return "quarantined"
    if not answer.stripped:
        return "empty_text"
    if is_good and answer.state == "stopped":
        return "stopped_chosen"
    return None


def _row(group: Group, answer: Answer, judgements: list[Judgement], label: bool | None) -> Row:
    mark = b"" if label is None else bytes([label])
    return Row(
        prompt_id=group.prompt_id,
        messages=group.messages,
        answers=(answer,),
        feedback_ids=sorted(one.id for one in judgements),
        key=joined(group.digest, answer.digest, mark),
        is_new=any(one.is_new for one in judgements),
        label=label,
    )
