"""Versions in order of what people prefer: Bradley-Terry strengths with honest intervals. Pure functions.

A version that won all of its games still gets a finite strength: each one also draws `PRIOR_TIES` games
against one imaginary average opponent. The order of the votes plays no role, as it would for Elo. Intervals
come from a bootstrap of two stages, raters first and then their votes: ten votes of one rater are less
evidence than one vote of each of ten (Field and Welsh 2007).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PRIOR_TIES = 2.0
RESAMPLES = 500
MIN_VOTES = 30  # pairs; below, a place is not shown as settled
POINTS = 400 / np.log(10)  # 400 points are odds of ten to one, as in chess
_AVERAGE = -1  # the imaginary opponent, among numbers of versions


@dataclass(frozen=True)
class Tally:
    """What one judge said of two versions, over all prompts. A tie is an equal rank, or both bad."""

    judge: str
    first: str
    second: str
    first_wins: float
    ties: float
    second_wins: float

    @property
    def votes(self) -> float:
        return self.first_wins + self.ties + self.second_wins


@dataclass(frozen=True, kw_only=True)
class Place:
    """One version. `points` are 0 for the average of all; 95 of 100 resamples lie from `low` to `high`."""

    version: str
    points: float
    low: float
    high: float
    votes: int
    raters: int
    win_rate: float  # over all of its votes, ties count half
    # The probability that it is better than the reference; None for the reference itself.
    better: float | None
    # False: too few votes, or never compared, over any chain of versions, with the reference.
    is_settled: bool
    is_connected: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rank_versions(
    tallies: Sequence[Tally], *, reference: str, weights: Mapping[str, float] | None = None, seed: int = 0
) -> list[Place]:
    """The best first; empty without a vote. `weights`: judge -> weight of each vote, 1 where it is not named.

    The same tallies in any order give the same places.
    """
    tallies = sorted((t for t in tallies if t.votes), key=lambda t: (t.judge, t.first, t.second))
    versions = sorted({name for t in tallies for name in (t.first, t.second)})
    if not versions:
        return []
    weights = weights or {}
    counts = np.array([[t.first_wins, t.ties, t.second_wins] for t in tallies])  # (tallies, 3)
    weight = np.array([weights.get(t.judge, 1.0) for t in tallies])[:, None]
    pairs = sorted({(t.first, t.second) for t in tallies})
    of_pair = np.array([pairs.index((t.first, t.second)) for t in tallies])
    sides = [(versions.index(first), versions.index(second)) for first, second in pairs]

    def fit(counted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        games = np.zeros((len(pairs), 3))
        np.add.at(games, of_pair, counted * weight)
        return _fit(len(versions), sides, games)

    points = fit(counts)
    samples = np.stack([fit(resample) for resample in _resamples(tallies, counts, seed)])
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    connected = _connected(tallies, reference)
    at = versions.index(reference) if reference in versions else None
    places = []
    for number, version in enumerate(versions):
        own = [t for t in tallies if version in (t.first, t.second)]
        votes = sum(t.votes for t in own)
        won = sum(t.first_wins if t.first == version else t.second_wins for t in own)
        better = None
        if at is not None and number != at:
            ahead, level = samples[:, number] > samples[:, at], samples[:, number] == samples[:, at]
            better = float(np.mean(ahead + level / 2))
        places.append(
            Place(
                version=version,
                points=float(points[number]),
                low=min(float(low[number]), float(points[number])),
                high=max(float(high[number]), float(points[number])),
                votes=round(votes),
                raters=len({t.judge for t in own}),
                win_rate=(won + sum(t.ties for t in own) / 2) / votes,
                better=better,
                is_settled=votes >= MIN_VOTES and version in connected,
                is_connected=version in connected,
            )
        )
    return sorted(places, key=lambda place: (-place.points, place.version))


def _fit(
    versions: int, sides: Sequence[tuple[int, int]], games: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Points of each version, centred. `games` (pairs, 3): wins of the first, ties, wins of the second."""
    # pandas comes with it: only who ranks pays for that, and no page does.
    from evalica import Winner, bradley_terry

    outcomes = (Winner.X, Winner.Draw, Winner.Y)
    played = [
        (*pair, outcome, count)
        for pair, row in zip(sides, games.tolist(), strict=True)
        for outcome, count in zip(outcomes, row, strict=True)
        if count
    ]
    played += [(version, _AVERAGE, Winner.Draw, PRIOR_TIES) for version in range(versions)]
    first, second, winners, counts = zip(*played, strict=True)
    scores = bradley_terry(first, second, winners, weights=list(counts), limit=1000).scores
    strengths = POINTS * np.log(scores.loc[list(range(versions))].to_numpy())
    centred: npt.NDArray[np.float64] = strengths - strengths.mean()
    return centred


def _resamples(
    tallies: Sequence[Tally], counts: npt.NDArray[np.float64], seed: int
) -> Iterable[npt.NDArray[np.float64]]:
    """Counts of `RESAMPLES` worlds: raters drawn with replacement, then their votes (as Poisson counts)."""
    dice = np.random.default_rng(seed)
    judges = sorted({t.judge for t in tallies})
    place = {judge: number for number, judge in enumerate(judges)}
    of = np.array([place[t.judge] for t in tallies])
    for _ in range(RESAMPLES):
        drawn = dice.multinomial(len(judges), np.full(len(judges), 1 / len(judges)))  # times each rater
        yield dice.poisson(counts * drawn[of][:, None]).astype(float)


def _connected(tallies: Sequence[Tally], start: str) -> set[str]:
    """The versions that a chain of comparisons joins to `start`; of the largest group when it has none."""
    joined: dict[str, set[str]] = defaultdict(set)
    for tally in tallies:
        joined[tally.first].add(tally.second)
        joined[tally.second].add(tally.first)
    groups: list[set[str]] = []
    for version in joined:
        if any(version in group for group in groups):
            continue
        group, edge = {version}, [version]
        while edge:
            edge = [name for near in edge for name in joined[near] - group]
            group.update(edge)
        groups.append(group)
    return max(groups, key=lambda group: (start in group, len(group), min(group)))
