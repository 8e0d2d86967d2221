"""A test that may be looked at after every vote: better, worse, or open, one error for all looks together.

Each cluster (a gate prompt, a conversation) gives one score in [0, 1]: 1 the candidate wins, 0.5 a tie, 0 it
loses. Against "the mean is at most m" one bets a share of one's capital on each next score being above m:

    K(l) = product over scores x of 1 + l (x - m),    0 <= l <= 1 / m

When the claim is true no such bet can be expected to gain, whatever the scores' distribution, so the mean
of K over a fixed set of l stays below 1 / alpha for ever with probability at least 1 - alpha (Ville 1939).
A look at any time, and stopping when one likes what one sees, is therefore honest; that is what the
fixed-size gate's interval is not. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", J. R. Stat. Soc. B 86 (2024) 1-27; the mixture over l goes back to Robbins (1970).

Only scores count, not their order, since each bet is a constant share: a look needs no history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BETTER, WORSE, OPEN = "better", "worse", "open"
ALPHA = 0.05
# Shares of the largest possible bet. The best one for a win rate of 0.55 is about 0.1, for 0.7 about 0.4.
BETS: NDArray[np.float64] = np.geomspace(0.02, 0.9, 16)
MIN_BEFORE = 20  # outcomes of a version that serves no more, for the next one to be held against
GRID: NDArray[np.float64] = np.linspace(0.0, 1.0, 1001)  # of means, for the interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What the scores say so far. `low` to `high` holds the true mean, 1 - 2 alpha sure over all looks.

    `for_better` and `for_worse` are the capitals won against "not better than" and "not worse than" the bar;
    1 / alpha decides.
    """

    n: int
    mean: float | None
    low: float
    high: float
    for_better: float
    for_worse: float
    verdict: str


def look(scores: Sequence[float], *, margin: float = 0.0, alpha: float = ALPHA) -> Look:
    """Is the mean above 0.5 + margin (better), below 0.5 - margin (worse), or can neither be said yet?

    `scores`: one a cluster, in [0, 1], else ValueError. Each of the two answers is wrong with probability at
    most `alpha`, over all looks at the same growing scores.
    """
    values, counts = np.unique(np.asarray(scores, dtype=float), return_counts=True)
    if len(values) and not (values[0] >= 0 and values[-1] <= 1):
        raise ValueError("scores must be in [0, 1]")
    better = float(capital(values, counts, np.array([0.5 + margin]))[0])
    worse = float(capital(1 - values, counts, np.array([0.5 + margin]))[0])
    verdict = OPEN
    if max(better, worse) >= 1 / alpha:
        verdict = BETTER if better > worse else WORSE
    low, high = interval(values, counts, alpha)
    n = int(counts.sum())
    mean = float(values @ counts / n) if n else None
    return Look(n, mean, low, high, better, worse, verdict)


def capital(values: Floats, counts: NDArray[np.int64], means: Floats) -> Floats:
    """What betting against "the mean is at most m" has made of 1, for each m in (0, 1): (M,)."""
    bets = BETS[None, :] / means[:, None]  # (M, L)
    logs = np.zeros_like(bets)
    for value, count in zip(values, counts, strict=True):
        logs += count * np.log1p(bets * (value - means[:, None]))
    highest = logs.max(axis=1, keepdims=True)
    won = highest[:, 0] + np.log(np.exp(logs - highest).mean(axis=1))
    finite: Floats = np.exp(np.minimum(won, 700.0))  # a float's end is evidence enough
    return finite


def interval(values: Floats, counts: NDArray[np.int64], alpha: float = ALPHA) -> tuple[float, float]:
    """The means that no bet speaks against: a confidence sequence at 1 - 2 alpha."""
    inner = GRID[1:-1]
    above = inner[capital(values, counts, inner) >= 1 / alpha]  # refuted as upper bounds of the mean
    below = inner[capital(1 - values, counts, 1 - inner) >= 1 / alpha]
    low = float(above.max()) if len(above) else 0.0
    high = float(below.min()) if len(below) else 1.0
    return low, high


def by_cluster(votes: Iterable[tuple[str, float]], *, every: int = 1) -> list[float]:
    """Votes in the order in which they came -> one score a cluster: see `fixed_scores`."""
    return list(fixed_scores(votes, every=every).values())


def fixed_scores(votes: Iterable[tuple[str, float]], *, every: int = 1) -> dict[str, float]:
    """Votes in the order in which they came -> cluster -> its score, fixed at the look that first sees it.

    A look comes after each `every` votes. Votes of one cluster until then are averaged; later ones on it do
    not count, since a bet cannot be made on what is already known. The last, unfinished stretch waits for its
    look.
    """
    fixed: dict[str, float] = {}
    open_: dict[str, list[float]] = {}
    for place, (cluster, score) in enumerate(votes, start=1):
        if cluster not in fixed:
            open_.setdefault(cluster, []).append(score)
        if place % every == 0:
            fixed.update({name: sum(of) / len(of) for name, of in open_.items()})
            open_ = {}
    return fixed


def paired_arms(outcomes: Iterable[tuple[bool, float]]) -> list[float]:
    """Outcomes of two arms in the order in which they came -> scores, for arms not shown side by side.

    An outcome is (is it the candidate's, how good in [0, 1]), such as a thumb in a canary. Each of the
    candidate's meets the mean of the champion's since its last one: 0.5 + (candidate - champion) / 2, whose
    mean is above 0.5 exactly when the candidate does better. Those that meet nobody wait for the next.
    """
    scores = []
    champion: list[float] = []
    waiting: list[float] = []
    for is_candidate, outcome in outcomes:
        (waiting if is_candidate else champion).append(outcome)
        while waiting and champion:
            scores.append(0.5 + (waiting.pop(0) - sum(champion) / len(champion)) / 2)
            champion = []
    return scores


def against_before(before: Sequence[float], after: Iterable[float]) -> list[float]:
    """Outcomes of one version -> scores against those that another had `before`, when both no longer serve.

    As `paired_arms`, but what the other one did is a sample that grows no more. Its mean is taken at the low
    end of its 95 % interval (one-sided), so that a lucky sample does not make the new one look worse.
    Empty when there are fewer than MIN_BEFORE: they say too little.
    """
    n = len(before)
    if n < MIN_BEFORE:
        return []
    mean = sum(before) / n
    spread = max(sum((x - mean) ** 2 for x in before) / n, 1 / n)  # all alike is no certainty
    bar = max(0.0, mean - 1.645 * (spread / n) ** 0.5)
    return [0.5 + (outcome - bar) / 2 for outcome in after]
