"""The verdict: a blind win rate, an interval by prompt, and what follows from them. Pure functions.

One vote scores the candidate 1 for a win, 0.5 for a tie or both bad, 0 for a loss. Votes on one prompt are
averaged first, so that a prompt with many votes counts once: prompts are the sample, votes are not.

A look at the interval is honest when it is taken once. Who decides again and again while votes come in
finds "better" by chance more often than the 2.5 % that one look has: services/sequential.py may be looked at
after every vote. What both hold is measured in bench/gate.py.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

PROMOTE, REJECT, INSUFFICIENT = "promote", "reject", "insufficient"
RESAMPLES = 10_000
CONFIDENCE = 0.95
_Z = 1.959964  # the normal quantile of CONFIDENCE
# From so many raters on they are a sample, too, and not only the prompts.
MIN_RATERS = 5
MIN_LENGTH_PROMPTS = 10
_NEWTON_STEPS = 50
_PRIOR = np.array(
    [0.05, 0.5]
)  # precision of the intercept (a twentieth of a prompt's) and of the length's slope


@dataclass(frozen=True)
class WinRate:
    """The candidate's win rate over prompts, with its interval. All None without a prompt."""

    n: int  # prompts with at least one vote
    win_rate: float | None
    ci_low: float | None
    ci_high: float | None
    deviation: float  # standard deviation over prompts; of like size where the raters set the interval


@dataclass(frozen=True)
class Decision:
    """`needed`: how many more judged prompts would settle it at this rate; None when more would not help."""

    verdict: str
    reason: str
    needed: int | None = None


def battle_score(candidate_rank: int | None, champion_rank: int | None) -> float:
    """1 when the candidate ranks better (a lower number), 0 when worse, 0.5 for a tie or both bad (None)."""
    if candidate_rank is None or champion_rank is None or candidate_rank == champion_rank:
        return 0.5
    return 1.0 if candidate_rank < champion_rank else 0.0


def judge_score(candidate: float, champion: float) -> float:
    """The same of a reward model's two scores, of which the higher one wins."""
    return 0.5 if candidate == champion else 1.0 if candidate > champion else 0.0


def win_rate(
    votes: Mapping[str, Sequence[float]],
    *,
    judges: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> WinRate:
    """The mean over prompts of the mean of their votes, with a percentile bootstrap by prompt.

    `votes`: prompt -> scores in [0, 1]; `judges`: prompt -> who gave each of them, in the same order, where
    people did. From MIN_RATERS on the interval is at least as wide as the one by rater, since one person's
    votes lean alike. The same votes and seed give the same interval, in any order.
    """
    result = _by_prompt(votes, seed)
    if judges is None or result.win_rate is None or result.ci_low is None or result.ci_high is None:
        return result
    half = _half_width_by_rater(votes, judges, result.win_rate)
    if half is None:
        return result
    low, high = max(0.0, result.win_rate - half), min(1.0, result.win_rate + half)
    return WinRate(
        result.n,
        result.win_rate,
        min(result.ci_low, low),
        max(result.ci_high, high),
        max(result.deviation, half / _Z * math.sqrt(result.n)),
    )


def _half_width_by_rater(
    votes: Mapping[str, Sequence[float]], judges: Mapping[str, Sequence[str]], rate: float
) -> float | None:
    """Of the 95 % interval whose sample are the raters (cluster-robust, Student's t); None for a few raters.

    With fewer than MIN_RATERS the interval would say nothing, so they are taken as they are: the verdict then
    is about these people.
    """
    pulls: dict[str, float] = defaultdict(float)
    n = sum(bool(scores) for scores in votes.values())
    for prompt in sorted(judges):
        for score, judge in zip(votes[prompt], judges[prompt], strict=True):
            pulls[judge] += (score - rate) / (n * len(votes[prompt]))
    raters = len(pulls)
    if raters < MIN_RATERS:
        return None
    variance = raters / (raters - 1) * sum(pull * pull for pull in pulls.values())
    return float(special.stdtrit(raters - 1, (1 + CONFIDENCE) / 2) * math.sqrt(variance))


def length_controlled(
    scores: Sequence[float], differences: Sequence[float]
) -> tuple[float, float, float] | None:
    """The win rate were both answers of one length, with its 95 % interval; None for fewer than 10 prompts.

    `scores`: one a prompt in [0, 1]; `differences`: characters of the candidate's answer less the champion's.
    A logistic regression of the score on tanh(difference / its standard deviation); the intercept is what is
    left where there is no difference. In the spirit of length-controlled AlpacaEval (Dubois et al. 2024,
    arXiv 2404.04475), whose model also knows how hard each instruction is; here a prompt is a row, and its
    interval is the sandwich's. A weak prior keeps a side that won everything finite.
    """
    y, raw = np.asarray(scores, dtype=float), np.asarray(differences, dtype=float)
    if len(y) < MIN_LENGTH_PROMPTS:
        return None
    spread = float(raw.std())
    x = np.column_stack([np.ones(len(y)), np.tanh(raw / spread) if spread else np.zeros(len(y))])  # (n, 2)
    weights = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        p = special.expit(x @ weights)
        bend = x.T @ (x * (p * (1 - p))[:, None]) + np.diag(_PRIOR)
        step = np.linalg.solve(bend, x.T @ (y - p) - _PRIOR * weights)
        weights = weights + step
        if float(np.abs(step).max()) < 1e-10:
            break
    p = special.expit(x @ weights)
    inverse = np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]) + np.diag(_PRIOR))
    middle = x.T @ (x * ((y - p) ** 2)[:, None])
    error = math.sqrt(float((inverse @ middle @ inverse)[0, 0]))
    low, rate, high = special.expit(weights[0] + _Z * error * np.array([-1.0, 0.0, 1.0]))
    return float(rate), float(low), float(high)


def _by_prompt(votes: Mapping[str, Sequence[float]], seed: int) -> WinRate:
    means = np.array([np.mean(votes[prompt]) for prompt in sorted(votes) if votes[prompt]], dtype=float)
    n = len(means)
    if n == 0:
        return WinRate(0, None, None, None, 0.0)
    rate = float(means.mean())
    if n == 1 or float(means.std()) == 0.0:
        # Every resample is the same, and a point is no honest interval: where all were won or lost it is
        # the exact one for n throws on one side (Clopper and Pearson 1934).
        slack = 1 - ((1 - CONFIDENCE) / 2) ** (1 / n) if rate in (0.0, 1.0) else 0.0
        low, high = (rate - slack, rate) if rate == 1.0 else (rate, rate + slack)
        return WinRate(n, rate, max(0.0, low), min(1.0, high), 0.0)
    from scipy import stats  # half a second, which each process that starts would pay

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (means,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=max(1, 2_000_000 // n),
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return WinRate(n, rate, float(interval.low), float(interval.high), float(means.std(ddof=1)))


def decide_verdict(
    result: WinRate, *, margin: float, min_battles: int, failed_guards: Sequence[str] = ()
) -> Decision:
    """Promote when the lower bound clears 0.5 + margin and nothing else speaks against it.

    A failed guard rejects at any number of votes: a candidate that says nothing needs no vote.
    """
    if failed_guards:
        return Decision(REJECT, "A guard failed: " + " ".join(failed_guards))
    bar = 0.5 + margin
    if result.win_rate is None or result.ci_low is None or result.ci_high is None:
        return Decision(
            INSUFFICIENT,
            f"No gate prompt was judged yet; {min_battles} are needed.",
            min_battles,
        )
    seen = (
        f"The candidate's win rate is {result.win_rate:.3f} "
        f"(95 % interval {result.ci_low:.3f} to {result.ci_high:.3f}) on {result.n} gate prompts"
    )
    if result.n < min_battles:
        missing = min_battles - result.n
        return Decision(
            INSUFFICIENT, f"{seen}; {missing} more must be judged, {min_battles} in all.", missing
        )
    if result.ci_low > bar:
        return Decision(PROMOTE, f"{seen}: the lower bound clears {bar:.3f}.")
    if result.ci_high < bar:
        return Decision(REJECT, f"{seen}: even the upper bound stays below {bar:.3f}.")
    needed = judgements_needed(result, bar)
    if needed is None:
        return Decision(
            INSUFFICIENT,
            f"{seen}; the bar of {bar:.3f} lies inside, and at this rate more would not clear it.",
        )
    return Decision(
        INSUFFICIENT,
        f"{seen}; the bar of {bar:.3f} lies inside. At this rate about {needed} more judged "
        "prompts would settle it.",
        needed,
    )


def judgements_needed(result: WinRate, bar: float) -> int | None:
    """How many more prompts until the lower bound clears `bar` at this rate and spread; None for never."""
    if result.win_rate is None or result.win_rate <= bar:
        return None
    whole = (_Z * result.deviation / (result.win_rate - bar)) ** 2
    return max(1, math.ceil(whole) - result.n)
