"""Judgements of one prompt to training pairs: pure, in the order of ids, with a reason for each one left out.

A judgement that makes no pair is one drop. A ranking of several makes pairs, and each can be dropped by
itself. Judgements of the same two texts are one pair: the heavier side wins, by the raters' weights. Ratings
make a pair where nobody compared the two answers and the gap between them is clear.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from operator import attrgetter

from training.services.data.group import Answer, Correction, Group, Preference, Rating, Row
from training.services.data.sameness import joined
from training.services.filters import DatasetFilters

Drops = Counter[str]


class Proposal:
    """One direction of one pair, and who is for it."""

    __slots__ = ("better", "ids", "is_new", "strengths", "weight", "worse")

    def __init__(self, better: Answer, worse: Answer) -> None:
        self.better = better
        self.worse = worse
        self.ids: list[str] = []
        self.weight = 0.0
        self.is_new = False
        self.strengths: list[tuple[float, float]] = []  # (weight, strength)

    def add(self, judgement: Preference | Correction | Rating, strength: float | None = None) -> None:
        self.ids.append(judgement.id)
        self.weight += judgement.weight
        self.is_new = self.is_new or judgement.is_new
        if strength is not None:
            self.strengths.append((judgement.weight, strength))

    @property
    def margin(self) -> float | None:
        """The mean strength by weight, 1 slight to 3 strong; None where nobody said one."""
        if not self.strengths:
            return None
        if len(self.strengths) == 1:
            return self.strengths[0][1]
        total = sum(weight for weight, _ in self.strengths)
        return sum(weight * strength for weight, strength in self.strengths) / total


Proposals = dict[tuple[str, str], Proposal]


def make_pairs(group: Group, filters: DatasetFilters, drops: Drops) -> Iterator[Row]:
    """Rows (chosen, rejected) of one prompt; direct comparisons first, then rated answers."""
    proposed: Proposals = {}
    for judgement in _by_id(group.preferences, group.corrections):
        if isinstance(judgement, Correction):
            _propose(proposed, judgement, judgement.better, judgement.answer, None, drops)
        elif reason := whole_drop(judgement):
            drops[reason] += 1
        else:
            for better, worse, strength in ordered(judgement, filters.rankings):
                _propose(proposed, judgement, better, worse, strength, drops)
    kept = _settle(proposed, drops)
    if group.ratings:
        kept += _rated_pairs(group.ratings, filters, proposed, drops)
    for proposal in kept:
        yield Row(
            prompt_id=group.prompt_id,
            messages=group.messages,
            answers=(proposal.better, proposal.worse),
            feedback_ids=proposal.ids,
            key=joined(group.digest, proposal.better.digest, proposal.worse.digest),
            is_new=proposal.is_new,
            margin=proposal.margin,
        )


def whole_drop(judgement: Preference) -> str | None:
    """Why a preference orders nothing; None when it does."""
    if judgement.all_bad:
        return "all_bad"
    if len({rank for _, rank in judgement.ranks}) == 1:
        return "tie"
    return None


def ordered(judgement: Preference, rankings: str) -> list[tuple[Answer, Answer, float | None]]:
    """(better, worse, strength) for two answers of unlike rank, the widest gap first.

    The strength was said of the first against the last; nearer ones get their share of it.
    """
    ranked = [(rank, answer) for answer, rank in judgement.ranks if rank is not None]
    if len(ranked) == 2:
        (first, a), (second, b) = ranked
        strength = None if judgement.strength is None else float(judgement.strength)
        return [(a, b, strength)] if first < second else [(b, a, strength)]
    ranked.sort(key=lambda one: (one[0], one[1].text))
    levels = sorted({rank for rank, _ in ranked})
    place = {rank: level for level, rank in enumerate(levels)}
    wanted: Iterable[tuple[int, int]] = combinations(levels, 2)
    if rankings == "adjacent":
        wanted = pairwise(levels)
    elif rankings == "extremes":
        wanted = [(levels[0], levels[-1])]
    allowed = set(wanted)
    widest = len(levels) - 1
    made = []
    for (first, a), (second, b) in combinations(ranked, 2):
        if (first, second) in allowed:
            gap = place[second] - place[first]
            strength = None if judgement.strength is None else judgement.strength * gap / widest
            made.append((gap, a, b, strength))
    made.sort(key=lambda one: -one[0])  # stable: alike gaps stay in order
    return [(a, b, strength) for _, a, b, strength in made]


def pair_drop(better: Answer, worse: Answer) -> str | None:
    """Why these two texts make no pair; None when they do."""
    if not (better.is_finished and worse.is_finished):
        return "unfinished"
    if better.quarantined or worse.quarantined:
        return "quarantined"
    if better.state == "stopped":
        return "stopped_chosen"
    if not better.stripped or not worse.stripped:
        return "empty_text"
    if better.stripped == worse.stripped:
        return "same_text"
    return None


def _by_id(preferences: list[Preference], corrections: list[Correction]) -> Iterable[Preference | Correction]:
    if not corrections:
        return preferences
    return heapq.merge(preferences, corrections, key=attrgetter("id"))


def _propose(
    proposed: Proposals,
    judgement: Preference | Correction,
    better: Answer,
    worse: Answer,
    strength: float | None,
    drops: Drops,
) -> None:
    if reason := pair_drop(better, worse):
        drops[reason] += 1
        return
    key = (better.text, worse.text)
    proposal = proposed.get(key)
    if proposal is None:
        proposal = proposed[key] = Proposal(better, worse)
    else:
        drops["duplicate"] += 1
    proposal.add(judgement, strength)


def _settle(proposed: Proposals, drops: Drops) -> list[Proposal]:
    """Where judges disagree about the same two texts, the heavier side stays; a draw leaves none."""
    kept = []
    for (better, worse), proposal in proposed.items():
        opposite = proposed.get((worse, better))
        if opposite is not None and opposite.weight >= proposal.weight:
            drops["outvoted"] += 1
        else:
            kept.append(proposal)
    return kept


def _rated_pairs(
    ratings: list[Rating], filters: DatasetFilters, compared: Proposals, drops: Drops
) -> list[Proposal]:
    """A pair for each two answers whose mean scores lie `rating_gap` or more apart, the widest gap first."""
    by_text: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_text[rating.answer.text].append(rating)
    scored = sorted(
        ((mean_score(said), said) for said in by_text.values()), key=lambda one: (-one[0], one[1][0].id)
    )
    used: set[str] = set()
    made = []
    for (high, better), (low, worse) in combinations(scored, 2):
        first, second = better[0].answer, worse[0].answer
        if high - low < filters.rating_gap:
            continue
        if (first.text, second.text) in compared or (second.text, first.text) in compared:
            continue  # people looked at the two side by side
        if reason := pair_drop(first, second):
            drops[reason] += 1
            continue
        proposal = Proposal(first, second)
        for rating in sorted(better + worse, key=attrgetter("id")):
            proposal.add(rating)
        used.update(proposal.ids)
        made.append((high - low, proposal))
    unused = sum(rating.id not in used for rating in ratings)
    if unused:
        drops["no_clear_gap"] += unused
    made.sort(key=lambda one: -one[0])
    return [proposal for _, proposal in made]


def mean_score(ratings: list[Rating]) -> float:
    """By the raters' weights. An aspect that was rated more often does not count for more."""
    if len(ratings) == 1:
        return ratings[0].score
    by_aspect: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_aspect[rating.aspect].append(rating)
    means = []
    for said in by_aspect.values():
        total = sum(rating.weight for rating in said)
        means.append(sum(rating.weight * rating.score for rating in said) / total)
    return sum(means) / len(means)
