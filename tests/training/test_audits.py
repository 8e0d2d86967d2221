"""The audit of an evaluation: what it rejects, and what it takes for luck."""

from __future__ import annotations

import pytest

from training.services.audits import judge_audit
from training.services.guards import GateAnswer
from training.services.votes import Votes

pytestmark = pytest.mark.unit
GOOD = GateAnswer("A whole answer.", "stop")
EMPTY = GateAnswer(" ", "stop")
CUT = GateAnswer("A whole answer that goes", "length")


def answers(*of: GateAnswer) -> dict[str, GateAnswer]:
    return {f"prompt {place}": answer for place, answer in enumerate(of)}


def votes(*scores: float) -> Votes:
    made = Votes()
    for place, score in enumerate(scores):
        made.scores[f"prompt {place}"].append(score)
        made.judges[f"prompt {place}"].append("user:1")
    return made


def test_people_who_prefer_the_champion_on_it_reject():
    found = judge_audit(votes(*[0.0] * 9, 1.0), answers(*[GOOD] * 10), answers(*[GOOD] * 10))
    [problem] = found["problems"]
    assert problem.startswith("On the audit prompts people prefer the champion: it wins 10% of 10")


@pytest.mark.parametrize("scores", [[], [0.0] * 5, [0.0, 1.0] * 5, [1.0] * 10])
def test_what_could_be_luck_rejects_nothing(scores):
    found = judge_audit(votes(*scores), answers(*[GOOD] * 10), answers(*[GOOD] * 10))
    assert (found["problems"], found["n"], found["prompts"]) == ([], len(scores), 10)


@pytest.mark.parametrize(
    ("worse", "better", "rejects"), [(4, 0, False), (5, 0, True), (7, 1, True), (6, 2, False)]
)
def test_new_faults_reject_when_they_are_too_many_for_luck(worse, better, rejects):
    candidate = answers(*[EMPTY] * worse, *[GOOD] * (20 - worse))
    champion = answers(*[GOOD] * (20 - better), *[EMPTY] * better)
    found = judge_audit(Votes(), candidate, champion)
    assert (found["new_faults"], found["spared"]) == ({"empty": worse}, better)
    assert bool(found["problems"]) is rejects


def test_a_fault_that_the_champion_has_too_is_not_new_and_a_cut_answer_is_none():
    found = judge_audit(Votes(), answers(*[EMPTY] * 9, *[CUT] * 9), answers(*[EMPTY] * 9, *[GOOD] * 9))
    assert (found["new_faults"], found["spared"], found["problems"]) == ({}, 0, [])
