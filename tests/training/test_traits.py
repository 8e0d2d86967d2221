"""Refusals and languages, told from the text alone."""

from __future__ import annotations

import pytest

from training.services.guards import GateAnswer, check_guards, faults_of
from training.services.traits import is_in_another_language, is_refusal, language_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I cannot assist with this request.",
        "As an AI language model, I don't have opinions, and I cannot answer.",
        "Unfortunately, I am unable to provide medical advice.",
        "I must decline to answer.",
    ],
)
def test_a_refusal_is_told(text: str):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Boil the egg for eight minutes.",
        "I'm sorry to hear that! Rinse it with cold water.",
        "You cannot boil an egg without water.",
        "An AI is a program. It can help you write.",
        "Eggs keep for weeks. " * 20 + "I cannot help you with more than that.",
    ],
)
def test_an_answer_is_none(text: str):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The egg is done when it has been in the water for eight minutes.", "en"),
        ("Das Ei ist fertig, wenn es acht Minuten im Wasser war und nicht länger.", "de"),
        ("Les œufs sont cuits quand ils sont restés huit minutes dans une casserole.", "fr"),
        ("El huevo está listo cuando lo has tenido ocho minutos en el agua y no más.", "es"),
        ("Яйцо готово, когда оно пробыло в кипящей воде восемь минут.", "cyrillic"),
        ("卵は沸騰したお湯で八分ゆでてください。", "ja"),
        ("鸡蛋在沸水中煮八分钟就可以了。", "han"),
        ("Eight minutes.", ""),
        ("42", ""),
        ("", ""),
    ],
)
def test_a_language_is_told_where_it_is_clear(text: str, language: str):
    assert language_of(text) == language


def test_another_language_needs_both_to_be_clear():
    english = "How long does an egg have to be in the water for it to be hard?"
    german = "Das Ei ist fertig, wenn es acht Minuten im Wasser war und nicht länger."
    assert is_in_another_language(english, german)
    assert not is_in_another_language(english, "Eight minutes.")
    assert not is_in_another_language("Eggs?", german)


@pytest.mark.parametrize(
    ("guard", "bad", "allowed", "refused"),
    [
        ("refusal", GateAnswer("I'm sorry, but I can't help with that.", "stop"), 5, 6),
        (
            "language",
            GateAnswer(
                "Das Ei ist fertig, wenn es nicht mehr weich ist.",
                "stop",
                question="What is it that you do with the eggs and the water that you have?",
            ),
            2,
            3,
        ),
    ],
)
def test_a_candidate_with_many_of_them_is_rejected(guard: str, bad: GateAnswer, allowed: int, refused: int):
    good = [GateAnswer(f"A whole answer of its own, number {n}.", "stop") for n in range(50)]
    assert faults_of(bad) == [guard]
    assert check_guards([bad] * allowed + good[allowed:], good)[1] == []
    assert len(check_guards([bad] * refused + good[refused:], good)[1]) == 1
