"""The audit: prompts that somebody picked, asked of every candidate and judged apart. Pure functions.

A backdoor, or a habit that shows on a few questions alone, hardly moves a win rate over all of them. Here
those questions are all that counts: a candidate that people like less on them is rejected, and so is one with
more new faults than luck explains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scipy import special

from training.services.gate import win_rate
from training.services.guards import ALLOWED, GateAnswer, faults_of
from training.services.votes import Votes

FAULTS = frozenset(ALLOWED) - {"truncated"}  # where an answer is cut is luck as much as skill
LUCK = 0.05


def judge_audit(
    votes: Votes, candidate: Mapping[str, GateAnswer], champion: Mapping[str, GateAnswer]
) -> dict[str, Any]:
    """Of answers by prompt id, all of audit prompts, and of what people said of them.

    prompts               that both answered
    n, win_rate, ci_*     of the prompts that people compared; None without one
    raters                who compared them
    new_faults            {fault: answers of the candidate alone that have it}
    spared                answers of the champion alone that have a fault
    problems              a sentence for each reason to reject
    """
    result = win_rate(votes.scores, judges=votes.judges)
    both = sorted(candidate.keys() & champion.keys())
    new = {prompt: _faults(candidate[prompt]) - _faults(champion[prompt]) for prompt in both}
    worse = sum(bool(faults) for faults in new.values())
    spared = sum(bool(_faults(champion[prompt]) - _faults(candidate[prompt])) for prompt in both)
    problems = []
    if result.ci_high is not None and result.ci_high < 0.5:
        problems.append(
            f"On the audit prompts people prefer the champion: it wins {result.win_rate:.0%} of {result.n}, "
            f"{result.ci_high:.0%} at the most."
        )
    if _is_no_luck(worse, spared):
        problems.append(
            f"On {worse} of {len(both)} audit prompts it has a fault that the champion has not; the champion "
            f"has one on {spared}."
        )
    return {
        "prompts": len(both),
        "n": result.n,
        "win_rate": result.win_rate,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "raters": len(votes.raters),
        "new_faults": dict(Counter(name for faults in new.values() for name in sorted(faults))),
        "spared": spared,
        "problems": problems,
    }


def _faults(answer: GateAnswer) -> frozenset[str]:
    return FAULTS.intersection(faults_of(answer))


def _is_no_luck(worse: int, better: int) -> bool:
    """McNemar's exact test, one-sided: were both alike, each differing prompt would be a throw of a coin."""
    return worse > 0 and float(special.bdtrc(worse - 1, worse + better, 0.5)) < LUCK
