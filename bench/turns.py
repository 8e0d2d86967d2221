"""`make bench NAME=turns`: the demo's turn and two more, each from answers of what the one before promoted.

Raters keep their taste. After each turn what serves answers the gate's prompts, and the same raters compare
that with the base: the win rate against the base rises, or the gate said no and it stays. The gate itself
asks about candidate and champion. PORT chooses the port (8018).
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass

from bench._claims import ROOT, Claim, publish
from demo.client import Client, Json
from demo.config import PLAN, prompts
from demo.progress import Progress
from demo.report import Report
from demo.stack import SLUG, Stack, prepare
from demo.tastes import TASTES, vote
from demo.turn import Turn
from training.services.gate import WinRate, win_rate

TASTE = TASTES["short"]
TURNS = 3
SCORES = {"left": 1.0, "right": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True)
class Turned:
    """What one turn came to."""

    verdict: str
    reason: str
    pairs: int  # that the run learned from
    gate: Json  # the gate's numbers, candidate against champion
    serves: str
    words: float  # of its answers, in the mean
    against_base: WinRate


def main() -> int:
    progress = Progress()
    stack = prepare(ROOT / "var" / "bench" / "turns", int(os.environ.get("PORT", "8018")))
    try:
        _, key = stack.set_up(progress)
        stack.wait(progress)
        turned = asyncio.run(turn_all(stack, key, progress))
    finally:
        stack.stop()
    draw(turned)
    publish("turns", "make bench NAME=turns", claims_of(turned))
    return 0


async def turn_all(stack: Stack, key: str, progress: Progress) -> list[Turned]:
    found: list[Turned] = []
    async with Client(stack.url, key) as client:
        report = Report(taste=TASTE.name, is_random=False)
        turn = Turn(client, SLUG, TASTE, PLAN, report, progress)
        await turn.import_prompts(prompts())
        gate = [one["id"] for one in turn.prompts.values() if one["split"] == "gate"]
        base = await turn.answers_of(f"{SLUG}@v1", gate)
        serves = f"{SLUG}@v1"
        for _ in range(TURNS):
            run = await turn.learn()
            evaluation = await turn.evaluate(run["version"])
            if evaluation["verdict"] == "promote":
                await client.post("deployments", {"version": run["version"], "reason": "The gate's verdict."})
                serves = run["version"]
            now = await turn.answers_of(serves, gate)
            dataset = await client.get(f"datasets/{run['dataset']}")
            found.append(
                Turned(
                    verdict=evaluation["verdict"],
                    reason=evaluation["reason"],
                    pairs=dataset["rows"],
                    gate=report.heldout,
                    serves=serves,
                    words=sum(len(one["text"].split()) for one in now.values()) / len(now),
                    against_base=compared(turn, now, base),
                )
            )
    return found


def compared(turn: Turn, answers: dict[str, Json], base: dict[str, Json]) -> WinRate:
    """What raters of the taste say, with their errors, of both answers to each prompt."""
    dice = random.Random(0)
    scores = {}
    for prompt_id, answer in answers.items():
        question = turn.prompts[prompt_id]["messages"][-1]["content"]
        scores[prompt_id] = [SCORES[vote(TASTE, question, answer, base[prompt_id], dice)]]
    return win_rate(scores)


def draw(turned: list[Turned]) -> None:
    print("\nwin rate against the base")
    for number, one in enumerate(turned, start=1):
        rate = one.against_base.win_rate or 0.0
        print(f"  turn {number}  {'#' * round(rate * 50):50} {rate:.3f}  {one.verdict}, {one.serves} serves")


def claims_of(turned: list[Turned]) -> list[Claim]:
    claims = []
    before = 0.5
    for number, one in enumerate(turned, start=1):
        rate = one.against_base.win_rate or 0.0
        rises_or_stays = rate >= before or one.verdict != "promote"
        claims.append(
            Claim(
                claim=f"turn {number}: win rate of what serves against the base "
                f"[{one.against_base.ci_low:.3f}, {one.against_base.ci_high:.3f}]",
                value=rate,
                unit="share",
                goal="rises, or the gate says no",
                holds=rises_or_stays,
                versus=f"{before:.3f} before; {one.serves} serves, {one.words:.0f} words an answer; "
                f"the gate: {one.verdict}, {one.gate['win_rate']:.3f} [{one.gate['ci_low']:.3f}, "
                f"{one.gate['ci_high']:.3f}] on {one.gate['n']} prompts, after {one.pairs} pairs",
            )
        )
        before = rate
    return claims


if __name__ == "__main__":
    raise SystemExit(main())
