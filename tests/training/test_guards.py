"""What speaks against a candidate whatever the votes say."""

from __future__ import annotations

import pytest

from training.services.guards import GateAnswer, check_guards, is_looping, latency

pytestmark = pytest.mark.unit
GOOD = [GateAnswer(f"A whole answer of its own, number {n}.", "stop") for n in range(50)]
LOOP = "the cat sat on the mat and " * 8


def with_bad(count: int, bad: GateAnswer) -> list[GateAnswer]:
    return [bad] * count + GOOD[count:]


@pytest.mark.parametrize(
    ("guard", "bad", "allowed", "refused"),
    [
        ("empty", GateAnswer("  \n", "stop"), 1, 2),
        ("looping", GateAnswer(LOOP, "stop"), 5, 6),
        ("truncated", GateAnswer("It goes on and", "length"), 7, 8),
    ],
)
def test_a_guard_fails_when_the_candidate_is_clearly_worse(guard, bad, allowed, refused):
    report, failed = check_guards(with_bad(allowed, bad), GOOD)
    assert failed == []
    assert report[guard]["holds"] is True
    report, failed = check_guards(with_bad(refused, bad), GOOD)
    assert report[guard]["holds"] is False
    assert len(failed) == 1
    assert f"{refused / 50:.0%}" in failed[0]


def test_a_champion_that_is_as_bad_does_not_hold_the_candidate_back():
    cut = [GateAnswer("It goes on and", "length")] * 50
    assert check_guards(cut, cut)[1] == []


def test_without_answers_nothing_is_held_against_anybody():
    report, failed = check_guards([], [])
    assert failed == []
    assert report["empty"]["candidate"] is None


def test_loops_are_told_from_short_and_from_varied_answers():
    assert is_looping(LOOP)
    assert not is_looping("no no no no no")
    assert not is_looping(
        "In the first place, boil the water; then put in the egg, wait eight minutes, and cool it."
    )


def test_latency_is_the_median_of_what_was_measured():
    timed = [GateAnswer("x", "stop", tokens_out=10, ttft_ms=t, total_ms=10 * t) for t in (10.0, 20.0, 90.0)]
    assert latency(timed) == {"ttft_ms_p50": 20.0, "total_ms_p50": 200.0, "tokens_per_second_p50": 50.0}
    assert latency([GateAnswer("x", "stop")])["ttft_ms_p50"] is None
