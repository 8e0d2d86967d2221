"""A test that may be looked at at any time: what it says, and that luck seldom fools it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.services.sequential import BETTER, OPEN, WORSE, by_cluster, look, paired_arms

pytestmark = pytest.mark.unit


def test_nothing_said_is_open_and_knows_nothing():
    seen = look([])
    assert (seen.n, seen.mean, seen.low, seen.high, seen.verdict) == (0, None, 0.0, 1.0, OPEN)


def test_a_clear_winner_and_a_clear_loser_are_found_soon_and_mirror_each_other():
    winner, loser = look([1.0] * 18 + [0.0] * 2), look([0.0] * 18 + [1.0] * 2)
    assert (winner.verdict, loser.verdict) == (BETTER, WORSE)
    assert winner.for_better == pytest.approx(loser.for_worse)
    assert winner.low == pytest.approx(1 - loser.high, abs=0.0011)
    assert winner.low > 0.5


def test_ties_alone_say_neither_however_many():
    assert look([0.5] * 5000).verdict == OPEN


def test_a_margin_raises_the_bar():
    scores = [1.0] * 130 + [0.0] * 70
    assert look(scores).verdict == BETTER
    assert look(scores, margin=0.1).verdict == OPEN


def test_scores_off_the_scale_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        look([2.0])


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=60), st.randoms())
def test_the_order_of_the_scores_does_not_matter_and_the_mean_lies_inside(scores, dice):
    seen = look(scores)
    shuffled = list(scores)
    dice.shuffle(shuffled)
    assert look(shuffled) == seen
    assert 0 <= seen.low <= seen.high <= 1
    if seen.mean is not None:
        assert seen.low - 0.001 <= seen.mean <= seen.high + 0.001


@pytest.mark.slow
def test_looking_often_fools_it_seldom():
    """200 equal candidates, a look every 25 of 400 battles: 5 % of them is the bound."""
    dice = np.random.default_rng(3)
    fooled = 0
    for _ in range(200):
        scores = dice.choice([0.0, 0.5, 1.0], p=[0.4, 0.2, 0.4], size=400).tolist()
        fooled += any(look(scores[:n]).for_better >= 20 for n in range(25, 401, 25))
    assert fooled <= 200 * 0.05


def test_a_cluster_counts_once_by_what_was_known_at_its_first_look():
    votes = [("a", 1.0), ("a", 0.0), ("b", 1.0), ("a", 1.0), ("c", 0.0), ("b", 0.0), ("d", 1.0)]
    assert by_cluster(votes, every=2) == [0.5, 1.0, 0.0]
    assert by_cluster(votes) == [1.0, 1.0, 0.0, 1.0]


def test_two_arms_meet_in_the_order_in_which_they_came():
    outcomes = [(False, 1.0), (False, 0.0), (True, 1.0), (True, 0.0), (False, 0.0), (False, 1.0)]
    assert paired_arms(outcomes) == [0.75, 0.5]
    assert paired_arms([(True, 1.0), (True, 1.0)]) == []
    assert paired_arms([(False, 0.5), (True, 0.5)] * 3) == [0.5] * 3
