"""`make bench NAME=gate`: how often the gate is wrong, by simulation of what people would say.

A simulated gate has prompts that favour one side by chance, raters who lean, ties, and several votes of one
rater; the candidate's true win rate is the mean over all prompts and raters that there could be. The verdicts
are those of the services themselves. `--quick` simulates 200 gates each in place of 1,000.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pool

import numpy as np

from bench._claims import Claim, publish
from training.services.gate import PROMOTE, decide_verdict, length_controlled, win_rate
from training.services.sequential import BETTER, OPEN, by_cluster, look

GATES = 1000
PEEK = 25
MAX_WRONG, MIN_FOUND = 0.05, 0.80


@dataclass(frozen=True)
class World:
    """`rate`: the true win rate, a tie is half. `prompt_sd` and `rater_sd`: how far each leans, as shares."""

    rate: float = 0.5
    battles: int = 400
    votes_a_prompt: int = 1
    ties: float = 0.0
    raters: int = 20
    prompt_sd: float = 0.0
    rater_sd: float = 0.0

    def votes(self, seed: int) -> list[tuple[str, str, float]]:
        """(prompt, rater, score) in the order in which they come."""
        dice = np.random.default_rng(seed)
        prompts = math.ceil(self.battles / self.votes_a_prompt)
        prompt_lean = dice.normal(0, self.prompt_sd, prompts) if self.prompt_sd else np.zeros(prompts)
        rater_lean = dice.normal(0, self.rater_sd, self.raters) if self.rater_sd else np.zeros(self.raters)
        # Everybody's n-th vote is on another prompt; a prompt's votes are of different raters.
        place = dice.permutation(prompts * self.votes_a_prompt)[: self.battles]
        made = []
        for at in place:
            prompt = int(at) % prompts
            rater = int(at) % self.raters if self.votes_a_prompt == 1 else int(dice.integers(self.raters))
            mean = min(1.0, max(0.0, self.rate + prompt_lean[prompt] + rater_lean[rater]))
            # A tie takes from both sides alike, so that the mean score stays what it is.
            tie = min(self.ties, 2 * mean, 2 * (1 - mean))
            throw = dice.random()
            score = 0.5 if throw < tie else float(throw < tie + mean - tie / 2)
            made.append((f"p{prompt}", f"r{rater}", score))
        return made


def fixed(world: World, seed: int, *, by_rater: bool = True) -> bool:
    """Whether the fixed-size gate promotes, looked at once."""
    scores, judges = defaultdict(list), defaultdict(list)
    for prompt, rater, score in world.votes(seed):
        scores[prompt].append(score)
        judges[prompt].append(rater)
    result = win_rate(scores, judges=judges if by_rater else None, seed=seed)
    return decide_verdict(result, margin=0.0, min_battles=50).verdict == PROMOTE


def fixed_peeking(world: World, seed: int) -> bool:
    """The alternative to a sequential test: a normal interval, looked at every PEEK battles."""
    scores = np.array([score for _, _, score in world.votes(seed)])
    for n in range(2 * PEEK, len(scores) + 1, PEEK):
        seen = scores[:n]
        if seen.mean() - 1.959964 * seen.std(ddof=1) / math.sqrt(n) > 0.5:
            return True
    return False


def sequential(world: World, seed: int) -> int | None:
    """After how many battles the sequential test, looked at every PEEK, says better; None: never."""
    votes = [(prompt, score) for prompt, _, score in world.votes(seed)]
    for n in range(PEEK, len(votes) + 1, PEEK):
        verdict = look(by_cluster(votes[:n], every=PEEK)).verdict
        if verdict != OPEN:
            return n if verdict == BETTER else None
    return None


def longer(seed: int, *, is_controlled: bool) -> bool:
    """A candidate that is only longer, before raters who like length: is it found better?"""
    dice = np.random.default_rng(seed)
    differences = dice.normal(120, 200, 400)
    # Equal where the lengths are; each 200 characters more win it some 12 points.
    chance = 1 / (1 + np.exp(-0.5 * differences / 200))
    scores = dice.binomial(1, chance).astype(float)
    if is_controlled:
        found = length_controlled(scores, differences)
        assert found is not None
        return found[1] > 0.5
    error = scores.std(ddof=1) / math.sqrt(len(scores))
    return bool(scores.mean() - 1.959964 * error > 0.5)


# --- what is claimed -------------------------------------------------------------------------------------
EQUAL = {
    "one vote a prompt": World(),
    "50 prompts": World(battles=50),
    "30 % ties": World(ties=0.3),
    "3 votes a prompt that leans by 15 points, 30 % ties": World(votes_a_prompt=3, ties=0.3, prompt_sd=0.15),
    "20 votes of each rater, who leans by 10 points": World(raters=20, rater_sd=0.10),
    "80 votes of each rater, who leans by 10 points": World(raters=5, rater_sd=0.10),
}
WORSE = World(rate=0.47, ties=0.2)
BETTER_60 = {
    "one vote a prompt": World(rate=0.6),
    "20 % ties": World(rate=0.6, ties=0.2),
    "3 votes a prompt that leans by 15 points": World(rate=0.6, votes_a_prompt=3, prompt_sd=0.15),
    "20 votes of each rater, who leans by 5 points": World(rate=0.6, raters=20, rater_sd=0.05),
}
LEANING = "80 votes of each rater, who leans by 10 points"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 gates each in place of 1,000")
    quick = parser.parse_args().quick
    gates = GATES // 5 if quick else GATES
    with Pool(2) as pool:
        claims = all_claims(lambda simulate: pool.map(simulate, range(gates), chunksize=10))
    publish("gate", "python -m bench.gate --quick" if quick else "make bench NAME=gate", claims)
    return 0


class Gate:
    """One simulation as a function of its seed that another process can be sent."""

    def __init__(self, simulate: Callable[..., object], *args: object, **options: object) -> None:
        self.simulate, self.args, self.options = simulate, args, options

    def __call__(self, seed: int) -> object:
        return self.simulate(*self.args, seed, **self.options)


Run = Callable[[Gate], list[object]]


def all_claims(run: Run) -> list[Claim]:
    claims = []
    for name, world in EQUAL.items():
        versus = ""
        if name == LEANING:
            versus = f"{share(run(Gate(fixed, world, by_rater=False))):.3f} by prompt alone"
        claims.append(wrong(f"equal candidate promoted: {name}", share(run(Gate(fixed, world))), versus))
    claims.append(wrong("worse candidate (47 %) promoted", share(run(Gate(fixed, WORSE)))))
    for name, world in BETTER_60.items():
        claims.append(
            found(f"true win rate 60 %, 400 battles, margin 0: {name}", share(run(Gate(fixed, world))))
        )
    claims += sequential_claims(run)
    raw = share(run(Gate(longer, is_controlled=False)))
    controlled = share(run(Gate(longer, is_controlled=True)))
    claims.append(
        wrong(
            "only longer, raters like length: length-controlled rate above 1/2",
            controlled,
            f"{raw:.3f} uncontrolled",
        )
    )
    return claims


def sequential_claims(run: Run) -> list[Claim]:
    claims = []
    long = World(battles=2000, ties=0.2)
    clustered = World(votes_a_prompt=3, ties=0.3, prompt_sd=0.15)
    for name, world in (
        ("400 battles", World()),
        ("2,000 battles, 20 % ties", long),
        ("400 battles, 3 a prompt that leans", clustered),
    ):
        rate = share(value is not None for value in run(Gate(sequential, world)))
        versus = f"{share(run(Gate(fixed_peeking, world))):.3f} by an interval looked at as often"
        claims.append(
            wrong(
                f"sequential, a look every {PEEK}: equal candidate found better within {name}", rate, versus
            )
        )
    for rate in (0.55, 0.6, 0.7):
        ends = run(Gate(sequential, World(rate=rate)))
        stopped = [float(end) for end in ends if isinstance(end, int)]
        claims.append(
            Claim(
                claim=f"sequential, a look every {PEEK}: true win rate {rate:.0%} found within 400 battles, "
                f"after {np.median(stopped) if stopped else math.nan:.0f} in the median",
                value=len(stopped) / len(ends),
                unit="share",
                goal="reported",
                holds=True,
                versus=f"{share(run(Gate(fixed, World(rate=rate)))):.3f} by the fixed-size gate of 400",
            )
        )
    return claims


def share(outcomes: object) -> float:
    values = [bool(one) for one in outcomes]  # type: ignore[attr-defined]
    return sum(values) / len(values)


def wrong(claim: str, value: float, versus: str = "") -> Claim:
    goal = f"<= {MAX_WRONG}"
    return Claim(claim=claim, value=value, unit="share", goal=goal, holds=value <= MAX_WRONG, versus=versus)


def found(claim: str, value: float) -> Claim:
    return Claim(claim=claim, value=value, unit="share", goal=f">= {MIN_FOUND}", holds=value >= MIN_FOUND)


if __name__ == "__main__":
    sys.exit(main())
