"""Whether a version that serves already does harm: guards, and the sequential test. Pure functions.

Everything is one kind of bet (services/sequential.py): each of the canary's outcomes meets those of the
champion that came since the one before. So it may be looked at after every answer, and an equal canary is
taken for a worse one in at most 5 % of all rollouts by its guards together, and in 5 % by what people say.
A guard breaks when the canary is worse by more than `allowed`, not by a hair.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.services.arms import Arms, LiveAnswer
from training.services.sequential import (
    ALPHA,
    MIN_BEFORE,
    WORSE,
    against_before,
    by_cluster,
    fixed_scores,
    look,
    paired_arms,
)

# By how much the canary's share may exceed the champion's.
ALLOWED = {"errors": 0.03, "slow": 0.20, "complaints": 0.05, "degenerate": 0.05}
_WORDS = {
    "errors": "failed",
    "slow": "were slow",
    "complaints": "got a thumb down or a flag",
    "degenerate": "were empty or repeated themselves",
}
SLOW = 2.0  # times the champion's median
SLOW_AT_LEAST_MS = 100.0  # above the median: below that nobody notices
LOOK_EVERY = 5  # votes between two looks: even a small project's canary can fail


@dataclass(frozen=True)
class Line:
    """One guard. `state` is holds, broken, or open where there is nothing to compare with."""

    name: str
    state: str
    candidate: float | None  # share of its answers
    champion: float | None
    allowed: float
    n: int  # of the candidate's answers that were compared
    words: str


@dataclass(frozen=True)
class Findings:
    """`broken` and `worse` are reasons to go back, as sentences; empty when there is none."""

    lines: list[Line]
    people: dict[str, Any]  # n, mean, low, high, verdict of the sequential test
    broken: list[str]
    worse: str
    bars: dict[str, float]  # milliseconds above which an answer is slow

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def reason(self) -> str:
        return " ".join([*([self.worse] if self.worse else []), *self.broken])


def find_harm(arms: Arms, *, bars: dict[str, float] | None = None, before: Arms | None = None) -> Findings:
    """What speaks against the candidate now.

    `before` is what the champion did until it served no more; without it both serve side by side. `bars` are
    those that an earlier look has set: they stay, so that the scale does not move under the test.
    """
    reference = before if before is not None else arms
    bars = bars or slow_bars([answer for answer in reference.answers if not answer.is_candidate])
    lines = [_guard(name, arms, before, bars) for name in ALLOWED]
    people = _people(arms, before)
    worse = ""
    if people["verdict"] == WORSE:
        worse = (
            f"People find it worse: its score against the champion is {people['mean']:.2f} "
            f"({people['low']:.2f} to {people['high']:.2f}) over {people['n']} conversations and questions; "
            "0.50 would be as good."
        )
    broken = [line.words for line in lines if line.state == "broken"]
    return Findings(lines, people, broken, worse, bars)


def slow_bars(champion: Sequence[LiveAnswer]) -> dict[str, float]:
    """Above which times an answer is slow, by what is usual; empty before there are enough answers."""
    bars = {}
    for name in ("ttft_ms", "gap_ms"):
        times = [value for answer in champion if (value := getattr(answer, name)) is not None]
        if len(times) >= MIN_BEFORE:
            median = statistics.median(times)
            bars[name] = round(max(SLOW * median, median + SLOW_AT_LEAST_MS), 1)
    return bars


def _is_bad(name: str, bars: dict[str, float]) -> Callable[[LiveAnswer], bool]:
    if name == "slow":
        return lambda answer: any((getattr(answer, time) or 0.0) > bar for time, bar in bars.items())
    attribute = {"errors": "failed", "complaints": "complained", "degenerate": "degenerate"}[name]
    return lambda answer: bool(getattr(answer, attribute))


def _guard(name: str, arms: Arms, before: Arms | None, bars: dict[str, float]) -> Line:
    is_bad, allowed = _is_bad(name, bars), ALLOWED[name]
    champions = [a for a in (before or arms).answers if not a.is_candidate]
    candidates = [a for a in arms.answers if a.is_candidate]
    new, old = (_share([is_bad(answer) for answer in side]) for side in (candidates, champions))
    if before is None:
        scores = paired_arms((a.is_candidate, float(not is_bad(a))) for a in arms.answers)
    else:
        scores = against_before(
            [float(not is_bad(a)) for a in champions], [float(not is_bad(a)) for a in candidates]
        )
    if not scores or (name == "slow" and not bars):
        return Line(name, "open", new, old, allowed, 0, "There is nothing to compare with yet.")
    seen = look(scores, margin=allowed / 2, alpha=ALPHA / len(ALLOWED))
    is_broken = seen.for_worse >= len(ALLOWED) / ALPHA
    words = (
        f"{new or 0:.1%} of {len(candidates)} answers {_WORDS[name]}, {old or 0:.1%} of {len(champions)} by "
        f"the champion; {allowed:.0%} more are allowed."
    )
    return Line(name, "broken" if is_broken else "holds", new, old, allowed, len(scores), words)


def _people(arms: Arms, before: Arms | None) -> dict[str, Any]:
    """Thumbs on either side, and comparisons of the two, as one test: both are 0.5 for an equal canary."""
    fixed = fixed_scores(
        ((f"{'new' if t.is_candidate else 'old'}:{t.cluster}", float(t.is_up)) for t in arms.thumbs),
        every=LOOK_EVERY,
    )
    outcomes = [(name.startswith("new:"), score) for name, score in fixed.items()]
    if before is None:
        scores = paired_arms(outcomes)
    else:
        old = [float(thumb.is_up) for thumb in before.thumbs if not thumb.is_candidate]
        scores = against_before(old, [score for is_candidate, score in outcomes if is_candidate])
    scores += by_cluster(arms.battles, every=LOOK_EVERY)
    seen = look(scores)
    return {"n": seen.n, "mean": seen.mean, "low": seen.low, "high": seen.high, "verdict": seen.verdict}


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
