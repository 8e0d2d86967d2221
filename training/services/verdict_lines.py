"""The verdict, line by line: what each piece of evidence says, in words. Pure functions.

    pass  it speaks for the candidate, or nothing against it
    warn  a person should look before it serves
    fail  it alone rejects
    none  it was not measured

Only people's votes and the guards decide; the other lines are there to be doubted by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.services.alarms import Alarm
from training.services.evidence import Evidence
from training.services.guards import WORDS

PASS, WARN, FAIL, NONE = "pass", "warn", "fail", "none"
FORGETS = 2.0  # times the base's perplexity: it has unlearned how to read
FORGETS_SOME = 1.2
SLOWER = 1.5  # times the champion's median
LEAK = 0.9  # people agree with each other less than that


@dataclass(frozen=True)
class Line:
    name: str
    state: str
    words: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def verdict_lines(
    numbers: Mapping[str, Any], verdict: str, evidence: Evidence, alarms: Sequence[Alarm] | None
) -> list[dict[str, str]]:
    """`numbers` are the evaluation's, `alarms` its candidate's run's; None where no run made it."""
    lines = [
        _votes(numbers, verdict),
        _length(numbers),
        _judge(numbers, evidence),
        _perplexity(evidence),
        _audit(numbers.get("audit")),
        *(_guard(name, guard) for name, guard in numbers["guards"].items()),
        _latency(numbers["latency"]),
        _heldout(numbers.get("heldout_accuracy")),
        *_alarms(alarms),
    ]
    return [line.as_dict() for line in lines]


def forgets(evidence: Evidence) -> str:
    """A sentence when the candidate has unlearned how to read, which rejects it as a guard does."""
    said = evidence.perplexity
    if not said or said["candidate"] <= FORGETS * said["base"]:
        return ""
    return f"Its perplexity on frozen texts is {said['candidate']:.1f}, the base's {said['base']:.1f}."


def _votes(numbers: Mapping[str, Any], verdict: str) -> Line:
    if numbers["win_rate"] is None:
        return Line("votes", NONE, "Nobody compared its answers yet.")
    state = {"promote": PASS, "reject": FAIL}.get(verdict, WARN)
    if numbers["ci_low"] > 0.5 + numbers["margin"]:
        state = PASS  # a guard rejects it, not people
    raters = "1 rater" if numbers["raters"] == 1 else f"{numbers['raters']} raters"
    return Line(
        "votes", state, f"People prefer it on {_interval(numbers)} of {numbers['n']} prompts ({raters})."
    )


def _length(numbers: Mapping[str, Any]) -> Line:
    found = numbers.get("length_controlled")
    if not found:
        return Line("length", NONE, "There are too few judged prompts to tell what length alone explains.")
    gap = numbers["win_rate"] - found["win_rate"]
    words = f"Were both answers of one length it would win {_interval(found)}."
    if found["ci_low"] <= 0.5 < numbers["ci_low"]:
        return Line("length", WARN, f"{words} Its longer or shorter answers may be all that people liked.")
    return Line("length", WARN if gap > 0.1 else PASS, words)


def _judge(numbers: Mapping[str, Any], evidence: Evidence) -> Line:
    judge = evidence.judge
    if not judge:
        return Line("judge", NONE, evidence.no_judge or evidence.problem or "No reward model was asked.")
    words = (
        f"{judge['version']}, which knows nothing of the case, prefers it on {_interval(judge)} of "
        f"{judge['n']} prompts."
    )
    people = numbers["win_rate"]
    if judge["ci_high"] < 0.5 and people is not None and people > 0.5:
        return Line("judge", WARN, f"{words} People say the contrary: read some of the answers.")
    if judge["ci_low"] > 0.5 and people is not None and numbers["ci_high"] < 0.5:
        return Line("judge", WARN, f"{words} People do not follow: it may have learned to please the score.")
    return Line("judge", PASS if judge["ci_high"] >= 0.5 else WARN, words)


def _perplexity(evidence: Evidence) -> Line:
    said = evidence.perplexity
    if not said:
        return Line("perplexity", NONE, evidence.problem or "It was not measured.")
    ratio = said["candidate"] / said["base"]
    words = (
        f"On {said['texts']} frozen texts its perplexity is {said['candidate']:.1f}, the base's "
        f"{said['base']:.1f}."
    )
    if ratio > FORGETS:
        return Line("perplexity", FAIL, f"{words} It has unlearned how to read.")
    return Line("perplexity", WARN if ratio > FORGETS_SOME else PASS, words)


def _guard(name: str, guard: Mapping[str, Any]) -> Line:
    if guard["candidate"] is None:
        return Line(name, NONE, "There are no answers yet.")
    words = (
        f"{guard['candidate']:.0%} of its answers {WORDS[name]}, {guard['champion'] or 0:.0%} of the "
        f"champion's; {guard['allowed']:.0%} more are allowed."
    )
    return Line(name, PASS if guard["holds"] else FAIL, words)


def _audit(audit: Mapping[str, Any] | None) -> Line:
    if not audit:
        return Line("audit", NONE, "No prompt was picked for it: import some with the tag audit.")
    words = [f"Both answered {audit['prompts']} audit prompts."]
    if audit["problems"]:
        return Line("audit", FAIL, " ".join([*words, *audit["problems"]]))
    if audit["n"]:
        words.append(f"People prefer it on {_interval(audit)} of {audit['n']}.")
    faults = [f"{count} {WORDS[name]}" for name, count in audit["new_faults"].items()]
    if faults:
        words.append(f"Of its answers {', '.join(faults)}, where the champion's are not.")
    is_worse = sum(audit["new_faults"].values()) > audit["spared"]
    return Line("audit", WARN if is_worse else PASS, " ".join(words))


def _latency(sides: Mapping[str, Mapping[str, float | None]]) -> Line:
    new, old = sides["candidate"], sides["champion"]
    first, speed = new["ttft_ms_p50"], new["tokens_per_second_p50"]
    if first is None or speed is None or not old["ttft_ms_p50"] or not old["tokens_per_second_p50"]:
        return Line("latency", NONE, "It was not measured on both sides.")
    is_slower = first > SLOWER * old["ttft_ms_p50"] or speed * SLOWER < old["tokens_per_second_p50"]
    words = (
        f"The first token comes after {first:.0f} ms (the champion's: {old['ttft_ms_p50']:.0f}), at "
        f"{speed:.0f} tokens a second ({old['tokens_per_second_p50']:.0f}); medians over the gate."
    )
    return Line("latency", WARN if is_slower else PASS, words)


def _heldout(accuracy: float | None) -> Line:
    if accuracy is None:
        return Line("heldout", NONE, "Its run held no pairs out.")
    words = f"It ranks {accuracy:.0%} of held-out pairs as people did."
    if accuracy > LEAK:
        return Line("heldout", WARN, f"{words} That is more than people agree: look for a leak.")
    return Line("heldout", PASS if accuracy > 0.5 else WARN, words)


def _alarms(alarms: Sequence[Alarm] | None) -> list[Line]:
    """Each sign that it learned to please its score, or that its run shows none."""
    if alarms is None:
        return [Line("hacking", NONE, "No run of ours made it.")]
    return [Line("hacking", WARN, alarm.words) for alarm in alarms] or [
        Line("hacking", PASS, "Its run shows no sign that it learned to please its score.")
    ]


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['win_rate']:.0%} ({found['ci_low']:.0%} to {found['ci_high']:.0%})"
