"""From judgements to training pairs: pure, in the order given, with a reason for each one left out.

A judgement that makes no pair is one drop; a ranking of several makes a pair for each two of unlike rank,
and each pair can be dropped by itself. Judgements of the same two texts are one pair: the majority wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any
from uuid import UUID

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """A side of a judgement: a completion, or the text of a correction."""

    text: str
    rank: int | None = None  # 1 is best; None when all are bad
    state: str = "finished"
    finish_reason: str = "stop"
    quarantined: bool = False

    @property
    def is_finished(self) -> bool:
        return self.state in ("finished", "stopped")

    @property
    def ended(self) -> bool:
        """False for an answer that was cut: it must not be taught an end that it never had."""
        return self.state == "finished" and self.finish_reason != "length"


@dataclass(frozen=True)
class Judgement:
    """A preference (two or more answers), or a correction (the better text, then the original)."""

    id: UUID
    judge: str
    prompt_id: UUID
    messages: Messages
    is_gate: bool
    is_heldout: bool
    answers: tuple[Answer, ...]
    all_bad: bool = False


@dataclass
class Pair:
    """One training row."""

    prompt_id: UUID
    messages: Messages
    is_heldout: bool
    chosen: Answer
    rejected: Answer
    feedback_ids: list[UUID]

    def to_row(self) -> dict[str, Any]:
        """The columns that a recipe reads; `*_ended` is false for an answer that was cut."""
        return {
            "prompt": [{"role": m["role"], "content": m["content"]} for m in self.messages],
            "chosen": [{"role": "assistant", "content": self.chosen.text}],
            "rejected": [{"role": "assistant", "content": self.rejected.text}],
            "chosen_ended": self.chosen.ended,
            "rejected_ended": self.rejected.ended,
            "prompt_id": str(self.prompt_id),
            "feedback_ids": [str(id_) for id_ in self.feedback_ids],
        }


@dataclass
class Pairs:
    """What was made and what was left out."""

    rows: list[Pair] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)
    judgements: int = 0
    judges: set[str] = field(default_factory=set)


def make_pairs(judgements: Iterable[Judgement], *, per_rater_cap: int, per_prompt_cap: int) -> Pairs:
    """Pairs in the order of their first judgement. Caps of 0 are none."""
    result = Pairs()
    by_judge: Counter[str] = Counter()
    proposed: dict[tuple[UUID, str, str], Pair] = {}  # (prompt, chosen, rejected) -> its pair
    for judgement in judgements:
        result.judgements += 1
        reason = _whole_drop(judgement)
        if reason is None and per_rater_cap and by_judge[judgement.judge] >= per_rater_cap:
            reason = "per_rater_cap"
        if reason is not None:
            result.drops[reason] += 1
            continue
        by_judge[judgement.judge] += 1
        for better, worse in _ordered(judgement):
            if reason := _pair_drop(better, worse):
                result.drops[reason] += 1
                continue
            key = (judgement.prompt_id, better.text, worse.text)
            if key in proposed:
                result.drops["duplicate"] += 1
                proposed[key].feedback_ids.append(judgement.id)
                continue
            proposed[key] = Pair(
                judgement.prompt_id, judgement.messages, judgement.is_heldout, better, worse, [judgement.id]
            )
    result.judges = set(by_judge)
    kept = _settle_contradictions(proposed, result.drops)
    result.rows = _cap_prompts(kept, per_prompt_cap, result.drops)
    return result


def _whole_drop(judgement: Judgement) -> str | None:
    """Why a judgement makes no pair at all; None when it may."""
    if judgement.is_gate:
        return "gate"
    if judgement.all_bad:
        return "all_bad"
    if len({answer.rank for answer in judgement.answers}) == 1:
        return "tie"
    return None


def _ordered(judgement: Judgement) -> Iterable[tuple[Answer, Answer]]:
    """(better, worse) for each two answers of unlike rank, best first."""
    ranked = sorted(judgement.answers, key=lambda answer: (answer.rank or 0, answer.text))
    return [(a, b) for a, b in combinations(ranked, 2) if (a.rank or 0) < (b.rank or 0)]


def _pair_drop(better: Answer, worse: Answer) -> str | None:
    """Why these two texts make no pair; None when they do."""
    if not (better.is_finished and worse.is_finished):
        return "unfinished"
    if better.quarantined or worse.quarantined:
        return "quarantined"
    if better.state == "stopped":
        return "stopped_chosen"
    if not better.text.strip() or not worse.text.strip():
        return "empty_text"
    if better.text.strip() == worse.text.strip():
        return "same_text"
    return None


def _settle_contradictions(proposed: dict[tuple[UUID, str, str], Pair], drops: Counter[str]) -> list[Pair]:
    """Where judges disagree about the same two texts, the majority's pair stays; a draw leaves none."""
    kept = []
    for (prompt_id, chosen, rejected), pair in proposed.items():
        opposite = proposed.get((prompt_id, rejected, chosen))
        if opposite is not None and len(opposite.feedback_ids) >= len(pair.feedback_ids):
            drops["outvoted"] += 1
        else:
            kept.append(pair)
    return kept


def _cap_prompts(pairs: list[Pair], cap: int, drops: Counter[str]) -> list[Pair]:
    by_prompt: Counter[UUID] = Counter()
    kept = []
    for pair in pairs:
        by_prompt[pair.prompt_id] += 1
        if cap and by_prompt[pair.prompt_id] > cap:
            drops["per_prompt_cap"] += 1
        else:
            kept.append(pair)
    return kept
