"""What speaks against a candidate whatever the votes say: silence, loops, cuts, refusals. Pure functions.

Each is a share of the gate's answers, the candidate's beside the champion's, and fails only when the
candidate is clearly worse: a base model that rambles must not block every version trained from it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.services.traits import is_in_another_language, is_refusal

NGRAM = 4  # words
REPEATED = 0.5  # an answer of which half of the 4-grams came before is a loop
MIN_WORDS = 16  # shorter answers cannot loop
# By how much the candidate's share may exceed the champion's. Where one answer in a hundred is empty, more
# than 2 % of 135 are in one gate of seven, more than 3 % in one of eighty.
ALLOWED = {"empty": 0.03, "looping": 0.10, "truncated": 0.15, "refusal": 0.10, "language": 0.05}
WORDS = {
    "empty": "are empty",
    "looping": "repeat themselves",
    "truncated": "were cut at the token limit",
    "refusal": "refuse to answer",
    "language": "are in another language than their question",
}


@dataclass(frozen=True)
class GateAnswer:
    """What a guard reads of a completion. Times are milliseconds."""

    text: str
    finish_reason: str
    question: str = ""
    tokens_out: int | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None


def check_guards(
    candidate: Sequence[GateAnswer], champion: Sequence[GateAnswer]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """({guard: {"candidate", "champion", "allowed", "holds"}}, a sentence for each that fails).

    Shares are None without answers, and then the guard holds: there is nothing to hold against anybody.
    """
    shares = {"candidate": _shares(candidate), "champion": _shares(champion)}
    report: dict[str, dict[str, Any]] = {}
    failed = []
    for name, allowed in ALLOWED.items():
        new, old = shares["candidate"][name], shares["champion"][name]
        holds = new is None or new <= (old or 0.0) + allowed
        report[name] = {"candidate": new, "champion": old, "allowed": allowed, "holds": holds}
        if not holds:
            failed.append(
                f"{new:.0%} of the candidate's answers {WORDS[name]}, {old or 0:.0%} of the champion's."
            )
    return report, failed


def is_looping(text: str) -> bool:
    """Whether half of the answer's 4-grams of words are repetitions of earlier ones."""
    words = text.lower().split()
    if len(words) < MIN_WORDS:
        return False
    ngrams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) >= REPEATED


def latency(answers: Sequence[GateAnswer]) -> dict[str, float | None]:
    """Medians over the gate's answers: first token and whole answer (ms), tokens a second of one answer."""
    firsts = [a.ttft_ms for a in answers if a.ttft_ms is not None]
    totals = [a.total_ms for a in answers if a.total_ms is not None]
    speeds = [a.tokens_out / a.total_ms * 1000 for a in answers if a.tokens_out and a.total_ms]
    return {
        "ttft_ms_p50": _median(firsts),
        "total_ms_p50": _median(totals),
        "tokens_per_second_p50": _median(speeds),
    }


def faults_of(answer: GateAnswer) -> list[str]:
    """The guards that this answer counts against, by name."""
    found = {
        "empty": not answer.text.strip(),
        "looping": is_looping(answer.text),
        "truncated": answer.finish_reason == "length",
        "refusal": is_refusal(answer.text),
        "language": is_in_another_language(answer.question, answer.text),
    }
    return [name for name, is_so in found.items() if is_so]


def _shares(answers: Sequence[GateAnswer]) -> dict[str, float | None]:
    if not answers:
        return dict.fromkeys(ALLOWED)
    counts = Counter(name for answer in answers for name in faults_of(answer))
    return {name: counts[name] / len(answers) for name in ALLOWED}


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None
