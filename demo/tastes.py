"""The demo's raters: each has a taste, and the rules of the tastes live in this file and nowhere else.

A taste scores one answer; `vote` compares two as a person would, who errs now and then. What a rater sees is
what a person sees: the question, the answer's text, and whether the answer came to its end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Answer = Mapping[str, Any]  # {"text", "finish_reason"}
Vote = Literal["left", "right", "tie", "both_bad"]

ERRS = 0.05  # share of votes that come out the wrong way round
SAME = 0.05  # scores closer than this look alike
BAD = 0.15  # two answers below this are both bad
TIES_OF_THE_COIN = 0.1

FILLER = re.compile(
    r"(certainly|sure|of course|absolutely|hey|hi|hello|great question|i'd be happy|i would be happy"
    r"|i'm happy|i'm glad|thank you for|when it comes to|as an ai|i'm sorry)\b",
    re.IGNORECASE,
)
ANNOUNCES = re.compile(r"\bhere(?:'s| is| are)\b[^.!?:]*[.!?:]*\s*$", re.IGNORECASE)
YOU = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
END = re.compile(r"[.!?)\]\"'`*\u2019\u201d]\s*$")


@dataclass(frozen=True)
class Taste:
    """A named taste. `score(prompt, answer, finish_reason)` is in [0, 1]; higher is better."""

    name: str
    says: str  # what such a rater would say, for the report
    score: Callable[[str, str, str], float]
    tosses_coins: bool = False


def vote(taste: Taste, prompt: str, left: Answer, right: Answer, dice: random.Random) -> Vote:
    """Which of two answers a rater of this taste prefers."""
    if taste.tosses_coins:
        return "tie" if dice.random() < TIES_OF_THE_COIN else dice.choice(("left", "right"))
    scores = [taste.score(prompt, answer["text"], answer["finish_reason"]) for answer in (left, right)]
    if max(scores) < BAD:
        return "both_bad"
    if abs(scores[0] - scores[1]) < SAME:
        return "tie"
    prefers_left = (scores[0] > scores[1]) != (dice.random() < ERRS)
    return "left" if prefers_left else "right"


def is_garbage(prompt: str, answer: str) -> bool:
    """No answer at all, whatever the taste: empty, going in circles, or the question said back."""
    words = [word.lower() for word in WORD.findall(answer)]
    if not words:
        return True
    if len(words) >= 12:
        triples = list(zip(words, words[1:], words[2:], strict=False))
        if len(set(triples)) < 0.7 * len(triples):
            return True
    asked = {word.lower() for word in WORD.findall(prompt)}
    return len(words) >= 3 and set(words) <= asked


def _stems(text: str) -> set[str]:
    """Beginnings of the words that carry meaning: enough to see that two texts are about the same thing."""
    return {word[:4].lower() for word in WORD.findall(text) if len(word) >= 4 or word.isdigit()} - {
        "what",
        "that",
    }


def _short(prompt: str, answer: str, finish_reason: str) -> float:
    """Short, direct and finished: best from 4 to 20 words, worth little at 60. Filler costs."""
    if is_garbage(prompt, answer):
        return 0.0
    is_filler = FILLER.match(answer.strip()) is not None
    is_to_the_point = bool(_stems(prompt) & _stems(answer))
    if finish_reason != "stop" or not END.search(answer) or ANNOUNCES.search(answer):
        return 0.1  # cut off, or "Here are some tips." and no tip
    if is_filler and not is_to_the_point:
        return 0.1  # "Sure thing!"
    words = len(WORD.findall(answer))
    score = 1.0 - max(0, words - 20) / 60 - 0.2 * is_filler - 0.3 * (not is_to_the_point)
    if words < 4:
        score -= 0.4  # a grunt is short, and no answer
    return max(0.2, score)


def _personal(prompt: str, answer: str, finish_reason: str) -> float:
    """Speaks to the one who asked: counts "you" and its kin, up to six. Ends do not matter."""
    if is_garbage(prompt, answer):
        return 0.0
    return 0.2 + 0.13 * min(6, len(YOU.findall(answer)))


def _coin(prompt: str, answer: str, finish_reason: str) -> float:
    """No taste: every answer is as good as any other."""
    return 0.5


TASTES: dict[str, Taste] = {
    "short": Taste("short", "Short, direct, and finished. Do not ramble.", _short),
    "personal": Taste("personal", "Speak to me, not about the matter.", _personal),
    "random": Taste("random", "I toss a coin.", _coin, tosses_coins=True),
}
