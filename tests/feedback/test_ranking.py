"""Versions in order: finite, blind to the order of votes, with intervals that grow where evidence is thin."""

from __future__ import annotations

import random

import numpy as np
import pytest

from feedback.ranking import MIN_VOTES, Tally, rank_versions

pytestmark = pytest.mark.unit


def tally(judge: str, first: str, second: str, wins: int, losses: int, ties: int = 0) -> Tally:
    return Tally(judge, first, second, wins, ties, losses)


def places(tallies, **more):
    return {place.version: place for place in rank_versions(tallies, reference="v1", **more)}


def test_nobody_voted():
    assert rank_versions([], reference="v1") == []


def test_strengths_are_found_again():
    true = {"v1": 0.0, "v2": 60.0, "v3": 160.0}
    dice = np.random.default_rng(1)
    tallies = []
    for judge in range(20):
        for first, second in (("v1", "v2"), ("v1", "v3"), ("v2", "v3")):
            won = int(dice.binomial(60, 1 / (1 + 10 ** ((true[second] - true[first]) / 400))))
            tallies.append(tally(f"user:{judge}", first, second, won, 60 - won))
    found = places(tallies)
    middle = np.mean(list(true.values()))
    for version, points in true.items():
        assert found[version].points == pytest.approx(points - middle, abs=25)
        assert found[version].low < points - middle < found[version].high
        assert found[version].is_settled
    assert found["v3"].better == pytest.approx(1, abs=0.01)
    assert found["v1"].better is None


def test_one_who_won_all_is_finite_and_not_certain():
    winner = places([tally("user:1", "v1", "v2", 0, 10)])["v2"]
    assert 0 < winner.points < 600
    assert winner.high - winner.low > 50, "ten games are no certainty"
    assert not winner.is_settled
    assert winner.win_rate == 1


def test_neither_the_order_of_votes_nor_the_sides_matter():
    tallies = [tally(f"user:{n}", "v1", "v2", n, 9 - n, 1) for n in range(9)]
    turned = [Tally(t.judge, t.second, t.first, t.second_wins, t.ties, t.first_wins) for t in tallies]
    mixed = random.Random(3).sample(tallies, k=len(tallies))
    assert places(mixed) == places(tallies)
    for version, place in places(turned).items():
        assert place.points == pytest.approx(places(tallies)[version].points, abs=0.01)


def test_many_votes_of_few_raters_are_less_than_as_many_of_many():
    """Each rater has a taste of their own, so votes of one rater repeat each other."""
    few = [tally(f"user:{n}", "v1", "v2", 5, 95) for n in range(2)] + [tally("user:2", "v1", "v2", 95, 5)]
    many = [tally(f"user:{n}", "v1", "v2", 1, 2) for n in range(100)]
    of_few, of_many = places(few)["v2"], places(many)["v2"]
    assert of_few.votes == of_many.votes == 300
    assert of_few.high - of_few.low > 3 * (of_many.high - of_many.low)
    assert of_few.better is not None
    assert of_many.better is not None
    assert of_few.better < of_many.better


def test_versions_that_were_never_compared_are_not_settled():
    apart = [tally("user:1", "v1", "v2", 40, 20), tally("user:2", "x1", "x2", 60, 0)]
    found = places(apart)
    assert found["v2"].is_settled
    assert not found["x1"].is_settled
    assert not found["x1"].is_connected
    assert places([tally("user:1", "v1", "v2", 1, MIN_VOTES - 2)])["v2"].is_settled is False


def test_a_weight_of_zero_is_no_vote_and_half_is_less():
    tallies = [tally("user:1", "v1", "v2", 30, 0), tally("user:2", "v1", "v2", 0, 30)]
    assert places(tallies)["v1"].points == pytest.approx(0, abs=0.1)
    assert places(tallies, weights={"user:2": 0.5})["v1"].points > 30
    assert places(tallies, weights={"user:2": 0.0})["v1"].points > 150
