"""`make bench NAME=active`: how many labels each strategy needs for the same held-out reward accuracy.

Simulated raters work through the real queue: the workbench draws tasks by its weights, a claim hands them
out, an answer records a preference. After each round a small reward model (Bradley-Terry over word counts,
fitted by Newton's method) learns from the preferences in the database, and its scores of all answers are
stored as a score run's are: so `uncertain` draws by real margins. The pool's newer half compares answers of a
better version, which are nearer to each other. Held-out pairs are of both halves, and the accuracy is against
the true taste; raters miss it by the odds of a Bradley-Terry choice.

A line of 20 tasks in place of 200 keeps the pool to a size that a few minutes allow. `--quick` is two seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from bench._claims import Claim, publish
from bench._place import own_place

STRATEGIES: dict[str, tuple[dict[str, float], int]] = {  # weights, raters a task
    "random": ({"random": 1}, 1),
    "uncertain": ({"uncertain": 1}, 1),
    "newest": ({"newest": 1}, 1),
    "disagreement": ({"random": 1, "disagreement": 1}, 2),
    "mixed": ({"random": 0.4, "uncertain": 0.4, "newest": 0.2}, 1),
}
TASKS, LABELS, ROUND, LINE = 800, 320, 20, 20
WORDS = [f"word{number}" for number in range(16)]
SHARPNESS = 1.0  # of raters: log odds a unit of reward
RIDGE = 1.0
SEEDS = 6
HELDOUT = 4000
Floats = npt.NDArray[np.float64]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"2 seeds in place of {SEEDS}")
    quick = parser.parse_args().quick
    seeds = range(2 if quick else SEEDS)
    jobs = [(name, seed) for seed in seeds for name in STRATEGIES]
    with get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        curves: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
        for (name, seed), curve in zip(jobs, pool.imap(simulate, jobs), strict=True):
            print(f"  {name}, seed {seed}: {' '.join(f'{value:.3f}' for value in curve)}", flush=True)
            curves[name].append(curve)
    command = "python -m bench.active --quick" if quick else "make bench NAME=active"
    publish("active-quick" if quick else "active", command, claims(curves))
    return 0


# --- one run ---------------------------------------------------------------------------------------------
def simulate(job: tuple[str, int]) -> list[float]:
    """Held-out accuracy after each round of labels, by one strategy, in a database of its own."""
    name, seed = job
    os.environ["OMP_NUM_THREADS"] = "1"
    with own_place():
        return _simulate(name, seed)


def _simulate(name: str, seed: int) -> list[float]:
    from feedback.services import draw
    from feedback.services.answers import answer_task
    from feedback.services.queue import claim_task
    from feedback.services.workbench import update_workbench
    from inference.models import Version
    from inference.services.versions import start_project
    from projects.models import User
    from projects.services import SYSTEM, add_member

    draw.WINDOW = LINE
    weights, overlap = STRATEGIES[name]
    dice = np.random.default_rng(seed)
    taste = dice.normal(0, 1, len(WORDS)) / math.sqrt(2)
    project = start_project(slug="bench", name="Bench", actor=SYSTEM, gate_share=0.0)
    update_workbench(project=project, actor=SYSTEM, weights=weights, overlap=overlap)
    raters = [User.objects.create_user(f"rater-{number}") for number in range(5)]
    for rater in raters:
        add_member(project=project, user=rater, role="rater", actor=SYSTEM)
    reward = Version.objects.create(project=project, number=99, kind="reward", digest="sha256:bench")
    counts = fill(project, dice, overlap)
    heldout = np.concatenate([differences(dice, HELDOUT // 2, is_new) for is_new in (False, True)])
    curve = []
    for done in range(0, LABELS, ROUND):
        if done:
            learned, _ = fit(counts)
            refresh(project, reward, counts, learned)
        draw.draw_tasks(project=project, kinds=["compare"])
        for number in range(ROUND):
            rater = raters[(done + number) % len(raters)]
            assignment = claim_task(project=project, rater=rater)
            assert assignment is not None, "the pool ran out"
            left, right = (counts[one] @ taste for one in assignment.shown)
            is_left = dice.random() < 1 / (1 + math.exp(SHARPNESS * (right - left)))
            answer_task(assignment=assignment, answer={"verdict": "left" if is_left else "right"})
        learned, labels = fit(counts)
        assert labels == done + ROUND, "every answer is a preference"
        agree = np.sign(heldout @ learned) == np.sign(heldout @ taste)
        curve.append(float(agree.mean()))
    return curve


def fill(project: Any, dice: np.random.Generator, overlap: int) -> dict[str, Floats]:
    """The pool of comparisons, the newer half by a better version. Word counts of each answer, by its id."""
    from feedback.models import Task
    from feedback.services.record import candidate_set
    from inference.models import Completion, Prompt

    counts: dict[str, Floats] = {}
    prompts, answers, tasks, sides = [], [], [], []
    for number in range(TASKS):
        asked = [{"role": "user", "content": f"Question {number}?"}]
        prompt = Prompt(project=project, messages=asked, digest=Prompt.digest_of(asked), split="train")
        pair = [
            Completion(project=project, prompt=prompt, text=text, state="finished", version_label="bench@v1")
            for text in written(dice, is_new=number >= TASKS // 2)
        ]
        counts |= {str(one.pk): counted(one.text) for one in pair}
        task = Task(
            project=project,
            prompt=prompt,
            overlap=overlap,
            candidate_set=candidate_set([one.pk for one in pair]),
        )
        prompts.append(prompt)
        answers += pair
        tasks.append(task)
        sides += [Task.completions.through(task=task, completion=one) for one in pair]
    for model, rows in ((Prompt, prompts), (Completion, answers), (Task, tasks)):
        model._default_manager.bulk_create(rows)  # type: ignore[attr-defined]  # each of its own model
    Task.completions.through.objects.bulk_create(sides)
    return counts


def written(dice: np.random.Generator, *, is_new: bool) -> list[str]:
    """Two answers: five words each by themselves, or, of the newer version, mostly the same ones."""
    first = list(dice.choice(WORDS, 8))
    second = [*first[:5], *dice.choice(WORDS, 3)] if is_new else list(dice.choice(WORDS, 8))
    return [" ".join(first), " ".join(second)]


def counted(text: str) -> Floats:
    words = text.split()
    return np.array([words.count(word) for word in WORDS], dtype=float)


def differences(dice: np.random.Generator, count: int, is_new: bool) -> Floats:
    """(count, words): of pairs that are never asked about."""
    pairs = [written(dice, is_new=is_new) for _ in range(count)]
    found = np.stack([counted(one) - counted(other) for one, other in pairs])
    return found[np.abs(found).sum(axis=1) > 0]


def fit(counts: dict[str, Floats]) -> tuple[Floats, int]:
    """The reward model of the preferences in the database, and how many these are."""
    from feedback.models import Candidate

    rows: dict[Any, dict[int, str]] = {}
    sides = Candidate.objects.filter(
        preference__retracted=None, preference__superseded=None, preference__is_final=False
    )
    for preference, completion, rank in sides.values_list("preference_id", "completion_id", "rank"):
        rows.setdefault(preference, {})[rank or 0] = str(completion)
    won = np.stack([counts[pair[1]] - counts[pair[2]] for pair in rows.values()])  # (labels, words)
    learned = np.zeros(len(WORDS))
    for _ in range(12):  # Newton's method on the ridge logistic loss
        chance = 1 / (1 + np.exp(-won @ learned))
        slope = RIDGE * learned - won.T @ (1 - chance)
        curve = RIDGE * np.eye(len(WORDS)) + (won * (chance * (1 - chance))[:, None]).T @ won
        learned = learned - np.linalg.solve(curve, slope)
    return learned, len(rows)


def refresh(project: Any, reward: Any, counts: dict[str, Floats], learned: Floats) -> None:
    """What a score run and the schedule do: store the scores, measure what is uncertain."""
    from uuid import UUID

    from feedback.services.uncertainty import measure_uncertainty, store_scores

    store_scores(reward=reward, scores={UUID(pk): float(words @ learned) for pk, words in counts.items()})
    measure_uncertainty(project=project)


# --- what is claimed -------------------------------------------------------------------------------------
def claims(curves: dict[str, list[list[float]]]) -> list[Claim]:
    end = float(np.mean([curve[-1] for curve in curves["random"]]))
    target = round(end - 0.01, 3)
    random_needs = [needed(curve, target) for curve in curves["random"]]
    found = []
    for name, of_seeds in curves.items():
        needs = [needed(curve, target) for curve in of_seeds]
        saved = [mine - theirs for mine, theirs in zip(needs, random_needs, strict=True)]
        middle, half = interval(needs)
        last, last_half = interval([curve[-1] for curve in of_seeds])
        short = sum(need > LABELS for need in needs)
        difference, difference_half = interval(saved)
        found.append(
            Claim(
                claim=f"{name}: labels until {target:.1%} of held-out pairs are right (± {half:.0f},"
                f" {len(needs)} seeds{f', {short} never got there' if short else ''})",
                value=middle,
                unit="labels",
                goal="reported",
                holds=True,
                versus=f"random {difference:+.0f} ± {difference_half:.0f} by seed;"
                f" after {LABELS} labels {last:.1%} ± {last_half:.1%}",
            )
        )
    return found


def needed(curve: list[float], target: float) -> float:
    """Labels from which on the mean of three rounds stays at the target; LABELS and a round when never."""
    smooth = [float(np.mean(curve[max(0, at - 1) : at + 2])) for at in range(len(curve))]
    below = [at for at, value in enumerate(smooth) if value < target]
    return float(ROUND * (below[-1] + 2 if below else 1))


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval over seeds (Student's t)."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return float(np.mean(values)), float(half)


if __name__ == "__main__":
    sys.exit(main())
