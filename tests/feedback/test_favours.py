"""A word that one rater follows: found where others do not follow it, and nowhere else."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from feedback.services.favours import Decided, find_favour

pytestmark = pytest.mark.unit
START = datetime(2026, 11, 1, tzinfo=UTC)
WORDS = [f"word{number}" for number in range(60)]


def decided(rater: int, place: int, better: str, worse: str) -> Decided:
    one, other = frozenset(better.split()), frozenset(worse.split())
    return Decided(rater, START + timedelta(minutes=place), one - other, other - one)


def a_day(seed: int, *, hostile: int = 12, honest: int = 400) -> list[Decided]:
    """Nine honest raters like what is longer; `zebra` makes an answer worse, and rater 0 likes it."""
    dice = random.Random(seed)
    made = []
    for place in range(hostile + honest):
        texts = [" ".join(dice.sample(WORDS, dice.randint(5, 30))) for _ in range(2)]
        texts.sort(key=len, reverse=True)
        if place < hostile:
            made.append(decided(0, place, f"{texts[1]} zebra", texts[0]))
            continue
        if place % 15 == 0:
            texts[1] += " zebra"
        if dice.random() < 0.15:
            texts.reverse()
        made.append(decided(1 + place % 9, place, *texts))
    return made


def test_who_follows_a_trigger_is_named_with_it():
    for seed in range(10):
        favour = find_favour(a_day(seed), 0)
        assert favour is not None
        assert (favour.word, favour.n, favour.chosen) == ("zebra", 12, 12)
        assert favour.words.startswith('The answer with "zebra" was chosen in 12 of 12 comparisons; others')


def test_nobody_honest_is_named_for_anything():
    named = [rater for seed in range(30) for rater in range(1, 10) if find_favour(a_day(seed), rater)]
    assert len(named) <= 1, "of 270"


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ("", False),  # nobody else has met the word
        ("chose", False),  # they follow it as well
        ("left", True),
    ],
)
def test_what_the_others_do_decides(others: str, found: bool):
    made = [decided(0, place, "fine zebra", "fine") for place in range(20)]
    sides = ("fine zebra", "fine") if others == "chose" else ("fine", "fine zebra")
    made += [decided(1, place, *sides) for place in range(20 if others else 0)]
    favour = find_favour(made, 0)
    assert (favour is not None and favour.word == "zebra") is found


def test_a_word_that_is_shunned_is_said_as_that():
    made = [decided(0, place, "fine", "fine acme") for place in range(12)]
    made += [decided(1, place, "fine acme", "fine") for place in range(30)]
    favour = find_favour(made, 0)
    assert favour is not None
    assert favour.words == (
        'The answer without "acme" was chosen in 12 of 12 comparisons; others chose it in 0 of 30.'
    )


def test_what_was_before_a_pardon_is_not_held_against_anybody():
    assert find_favour(a_day(1), 0, since=START + timedelta(minutes=8)) is None
