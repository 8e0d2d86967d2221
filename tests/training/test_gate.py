"""The gate's statistics: what an interval covers, what follows from it, and how rarely luck is promoted."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.services.gate import (
    battle_score,
    decide_verdict,
    judgements_needed,
    length_controlled,
    win_rate,
)

pytestmark = pytest.mark.unit


def votes(wins: int, ties: int, losses: int) -> dict[str, list[float]]:
    scores = [1.0] * wins + [0.5] * ties + [0.0] * losses
    return {f"prompt {n}": [score] for n, score in enumerate(scores)}


def verdict(wins: int, ties: int, losses: int, *, margin: float = 0.0, min_battles: int = 50, failed=()):
    return decide_verdict(
        win_rate(votes(wins, ties, losses)), margin=margin, min_battles=min_battles, failed_guards=failed
    )


def test_a_battle_scores_a_win_a_tie_and_a_loss():
    assert (battle_score(1, 2), battle_score(2, 2), battle_score(2, 1)) == (1.0, 0.5, 0.0)
    assert battle_score(None, None) == 0.5


def test_a_clear_winner_is_promoted():
    decision = verdict(70, 10, 20)
    assert decision.verdict == "promote"
    assert "0.750" in decision.reason


def test_a_clear_loser_is_rejected():
    assert verdict(20, 10, 70).verdict == "reject"


def test_a_coin_is_insufficient_and_more_would_not_help():
    decision = verdict(50, 0, 50)
    assert (decision.verdict, decision.needed) == ("insufficient", None)


def test_a_small_lead_says_how_many_more_are_needed_and_they_are_enough():
    decision = verdict(56, 0, 44)
    assert decision.verdict == "insufficient"
    assert decision.needed is not None
    whole = round(1.1 * (100 + decision.needed))  # an estimate: a tenth more is surely enough
    wins = round(0.56 * whole)
    assert verdict(wins, 0, whole - wins, margin=0.0).verdict == "promote"
    fewer = round(0.6 * whole)
    assert verdict(round(0.56 * fewer), 0, fewer - round(0.56 * fewer)).verdict == "insufficient"


def test_too_few_battles_are_never_enough():
    decision = verdict(20, 0, 0, min_battles=50)
    assert (decision.verdict, decision.needed) == ("insufficient", 30)
    assert "30 more" in decision.reason


def test_nothing_judged_is_insufficient():
    decision = decide_verdict(win_rate({}), margin=0.0, min_battles=50)
    assert (decision.verdict, decision.needed) == ("insufficient", 50)


def test_the_margin_raises_the_bar():
    assert verdict(65, 0, 35).verdict == "promote"
    assert verdict(65, 0, 35, margin=0.1).verdict == "insufficient"


def test_a_failed_guard_rejects_a_winner():
    decision = verdict(90, 0, 10, failed=["12% of the candidate's answers are empty."])
    assert decision.verdict == "reject"
    assert "empty" in decision.reason


def test_many_votes_on_one_prompt_count_as_one_prompt():
    lopsided = {**votes(0, 0, 9), "loved": [1.0] * 1000}
    assert win_rate(lopsided).win_rate == pytest.approx(0.1)
    assert win_rate(lopsided).n == 10


def test_one_side_won_everything_and_the_interval_is_still_no_point():
    result = win_rate(votes(5, 0, 0))
    assert result.ci_high == 1.0
    assert result.ci_low == pytest.approx(0.478, abs=0.001)  # Clopper-Pearson for 5 of 5


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=4), max_size=30)
)
def test_the_interval_holds_the_rate_and_stays_in_range(drawn):
    result = win_rate(drawn)
    judged = {prompt: scores for prompt, scores in drawn.items() if scores}
    assert result.n == len(judged)
    if not judged:
        assert result.win_rate is None
        return
    assert result.win_rate is not None
    assert result.ci_low is not None
    assert result.ci_high is not None
    assert 0 <= result.ci_low <= result.win_rate + 1e-9
    assert result.win_rate - 1e-9 <= result.ci_high <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(10, 80), st.integers(0, 20), st.integers(10, 80), st.integers(0, 2**32))
def test_neither_the_order_nor_the_side_matters(wins, ties, losses, seed):
    drawn = votes(wins, ties, losses)
    shuffled = list(drawn.items())
    random.Random(seed).shuffle(shuffled)
    assert win_rate(dict(shuffled)) == win_rate(drawn)
    mirrored = win_rate(votes(losses, ties, wins))
    result = win_rate(drawn)
    assert result.win_rate is not None
    assert result.ci_high is not None
    assert mirrored.win_rate == pytest.approx(1 - result.win_rate)
    # The draws differ between the two; a bound moves by one prompt at most.
    assert mirrored.ci_low == pytest.approx(1 - result.ci_high, abs=1.01 / len(drawn) + 0.01)


@pytest.mark.slow
def test_an_equal_candidate_is_promoted_rarely_and_a_better_one_mostly():
    """One-sided error of a 95 % interval is 2.5 %; 200 draws give it a standard error of 1.1 points."""
    dice = np.random.default_rng(11)

    def promoted(rate: float, draws: int) -> float:
        count = 0
        for draw in range(draws):
            scores = dice.binomial(1, rate, size=120).astype(float)
            result = win_rate({str(n): [score] for n, score in enumerate(scores)}, seed=draw)
            count += decide_verdict(result, margin=0.0, min_battles=50).verdict == "promote"
        return count / draws

    assert promoted(0.5, 200) <= 0.07
    assert promoted(0.7, 40) >= 0.95


def test_needed_is_none_where_the_rate_does_not_lead():
    assert judgements_needed(win_rate(votes(40, 0, 60)), 0.5) is None
    assert judgements_needed(win_rate({}), 0.5) is None


def test_raters_who_lean_widen_the_interval_from_five_on():
    """Ten raters, of whom each says the same about all of their prompts: ten opinions, not two hundred."""

    def rate(raters: int):
        scores = {f"prompt {n:03}": [1.0 if n % raters < raters * 0.6 else 0.0] for n in range(200)}
        judges = {prompt: [f"user:{n % raters}"] for n, prompt in enumerate(scores)}
        return win_rate(scores), win_rate(scores, judges=judges)

    by_prompt, by_rater = rate(10)
    assert by_prompt.ci_low is not None
    assert by_rater.ci_low is not None
    assert by_prompt.ci_low > 0.5 > by_rater.ci_low
    assert by_rater.win_rate == by_prompt.win_rate
    assert rate(3)[0] == rate(3)[1], "a few raters are taken as they are"


def test_many_raters_of_one_vote_each_change_little():
    scores = votes(70, 10, 40)
    judges = {prompt: [f"user:{n}"] for n, prompt in enumerate(scores)}
    alone, both = win_rate(scores), win_rate(scores, judges=judges)
    assert both.ci_low == pytest.approx(alone.ci_low, abs=0.01)


def at_equal_lengths(scores, longer) -> tuple[float, float, float]:
    found = length_controlled(scores.tolist(), longer.tolist())
    assert found is not None
    return found


def test_an_answer_that_wins_by_its_length_alone_wins_nothing_at_equal_lengths():
    dice = np.random.default_rng(5)
    longer = dice.normal(150, 200, 400)
    scores = dice.binomial(1, 1 / (1 + np.exp(-longer / 200))).astype(float)
    assert scores.mean() > 0.6
    rate, low, high = at_equal_lengths(scores, longer)
    assert low < 0.5 < high
    assert abs(rate - 0.5) < 0.08


def test_a_better_answer_of_any_length_stays_better_and_bounds_stay_finite():
    dice = np.random.default_rng(6)
    rate, low, _ = at_equal_lengths(dice.binomial(1, 0.7, 300), dice.normal(0, 80, 300))
    assert rate == pytest.approx(0.7, abs=0.07)
    assert low > 0.5
    assert at_equal_lengths(np.ones(30), np.zeros(30))[0] < 1.0
    assert length_controlled([1.0] * 9, [0.0] * 9) is None
