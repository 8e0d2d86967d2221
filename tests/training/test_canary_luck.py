"""Luck seldom sends an equal canary back, and a worse one goes: simulated answers, looked at often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from training.services.arms import Arms, LiveAnswer, Thumb
from training.services.canary import find_harm

pytestmark = pytest.mark.slow
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
OLD = {"errors": 0.03, "up": 0.7}  # of the champion


def goes_back(seed: int, *, errors: float, up: float, share: float = 0.25) -> bool:
    """1,000 answers, three in ten of them judged; a look after each hundred."""
    dice, arms = np.random.default_rng(seed), Arms()
    for number in range(1000):
        is_new = dice.random() < share
        moment = BEGIN + timedelta(seconds=number)
        arms.answers.append(
            LiveAnswer(
                is_new,
                moment,
                failed=dice.random() < (errors if is_new else OLD["errors"]),
                degenerate=dice.random() < 0.03,
                complained=dice.random() < 0.06,
                ttft_ms=float(dice.lognormal(5, 0.5)),
            )
        )
        if dice.random() < 0.3:
            is_up = dice.random() < (up if is_new else OLD["up"])
            arms.thumbs.append(Thumb(is_new, str(number), is_up, moment))
        if number % 100 == 99 and find_harm(arms).reason:
            return True
    return False


def test_an_equal_canary_is_seldom_sent_back():
    assert (
        sum(goes_back(seed, **OLD) for seed in range(20)) <= 4
    )  # 10 % are allowed; more than 4 are 4 in 100


@pytest.mark.parametrize("harm", [{"errors": 0.25, "up": 0.7}, {"errors": 0.03, "up": 0.3}])
def test_a_worse_one_is(harm: dict[str, float]):
    assert all(goes_back(seed, **harm) for seed in range(8))
