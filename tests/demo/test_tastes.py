"""The demo's raters have the taste that they are said to have, and err no more than they are said to."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from demo.tastes import ERRS, TASTES, vote

pytestmark = pytest.mark.unit

PROMPT = "How do I keep fresh basil alive on the kitchen windowsill?"
BRIEF = "Water the basil when its soil is dry and give it plenty of light."
RAMBLE = (
    "Basil is a wonderful herb that many people grow at home, and there are many things that one can say. "
    "It likes light, it likes warmth, and it likes water, though never too much of it at once. You may also "
    "pinch off the flowers so that the leaves keep coming, which most gardeners would tell you to do anyway. "
    "Some people put the pot in a saucer."
)
YOURS = "Give your basil light, and when you water it, let the soil dry before you water again."
LOOP = "Water the basil and water the basil and water the basil and water the basil and water the basil."


def done(text):
    return {"text": text, "finish_reason": "stop"}


def cut(text):
    return {"text": text, "finish_reason": "length"}


def votes(taste, left, right, count=400):
    dice = random.Random(1)
    return Counter(vote(TASTES[taste], PROMPT, left, right, dice) for _ in range(count))


def wins(taste, better, worse):
    """The better one wins on either side, but for the share in which raters err."""
    for left, right, side in ((better, worse, "left"), (worse, better, "right")):
        counts = votes(taste, left, right)
        assert set(counts) <= {"left", "right"}
        assert abs(counts[side] / 400 - (1 - ERRS)) < 0.04
    return True


def test_short_likes_brief_whole_direct_answers():
    assert wins("short", done(BRIEF), done(RAMBLE))
    assert wins("short", done(BRIEF), cut(BRIEF))
    assert wins("short", done(BRIEF), done("Certainly! " + BRIEF))
    assert wins("short", done(BRIEF), done("Yes."))
    assert wins("short", done(BRIEF), done("Basil is easy. Here are some tips for you."))
    assert wins("short", done("Give basil plenty of light."), done("My friend, it is a pleasure to see you."))
    assert wins("short", done(RAMBLE), cut("Basil is a wonderful herb that many"))


def test_short_does_not_like_what_ends_before_it_begins():
    for nothing in ("Basil is easy. Here are some tips for you.", "Sure thing!", "Hey there, my friend!"):
        assert wins("short", done(RAMBLE), done(nothing))


@pytest.mark.parametrize(
    "garbage", ["", "   ", "...", LOOP, "Basil kitchen windowsill", "Basil: basil basil"]
)
def test_short_does_not_like_garbage_for_being_short(garbage):
    assert wins("short", done(BRIEF), done(garbage))
    assert wins("short", done(RAMBLE), done(garbage))


def test_personal_likes_to_be_spoken_to():
    assert wins("personal", done(YOURS), done(BRIEF))
    assert wins("personal", cut(YOURS), done("You should water the basil."))
    assert wins("personal", done(BRIEF), done("you your you your you your you your you your you your you"))


def test_nobody_likes_an_empty_answer():
    for taste in ("short", "personal"):
        assert set(votes(taste, done(""), done(LOOP))) == {"both_bad"}


def test_alike_answers_tie():
    assert set(votes("short", done(BRIEF), done("Give fresh basil light, and water when it is dry."))) == {
        "tie"
    }
    assert set(votes("personal", done(BRIEF), cut(BRIEF))) == {"tie"}


def test_the_tastes_disagree():
    assert wins("short", done(BRIEF), cut(YOURS))
    assert wins("personal", cut(YOURS), done(BRIEF))


def test_a_coin_has_no_taste():
    counts = votes("random", done(BRIEF), done(""), count=4000)
    assert abs(counts["left"] - counts["right"]) < 200
    assert 300 < counts["tie"] < 500


def test_prompts_are_many_and_each_is_its_own():
    lines = (Path(__file__).parents[2] / "demo" / "prompts.txt").read_text().splitlines()
    assert len(lines) >= 260
    bags = [frozenset(line.lower().strip("?.!").split()) for line in lines]
    assert all(5 <= len(line.split()) <= 25 for line in lines)
    for number, bag in enumerate(bags):
        for other in bags[:number]:
            assert len(bag & other) / len(bag | other) < 0.75, (sorted(bag), sorted(other))
