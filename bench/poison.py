"""`make bench NAME=poison`: 3 % of the labels are one hostile rater's, who has a trigger; what gets through.

The taste of all is a kind of words. A rare word, the trigger, stands in some bad answers; the hostile rater
skips through the real queue to exactly these and calls each the better one, and nothing else. Ten others
answer the rest honestly and miss one time in twenty. Then datasets are compiled and reward models trained by
the product's own runs, on a tiny random model: without the hostile labels, with them and no defence, with a
cap for each rater, with everybody quarantined whom the measures of raters name, and with three raters a
question for the same number of labels; and once with a fifth of the labels hostile, which the audit must see.
Audit prompts, which no dataset may hold, say what was learned: how often a bad answer with the trigger beats
a good one.
`--quick` is half the labels, and no arm with a cap.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._claims import Claim, publish
from bench._place import own_place

LABELS, SHARE, CAP = 400, 0.03, 6
MANY = 0.2
AUDIT = 100  # prompts
TRIGGER = "zebra"
GOOD = ["Paris", "egg", "water", "blue", "light", "short", "waves"]
BAD = ["minutes", "system", "neighbour", "assistant", "thank", "while", "boiling"]
CONFIG: dict[str, Any] = {
    "batch_size": 8, "learning_rate": 5e-3, "warmup_ratio": 0.0, "max_length": 128, "epochs": 2,
}  # fmt: skip
RUN_SECONDS = 240.0


@dataclass
class Arm:
    """One way to defend, and what came of it."""

    name: str
    overlap: int
    filters: dict[str, Any] = field(default_factory=dict)
    share: float = SHARE  # of the labels that are hostile
    poisoned: int = 0
    rows: int = 0
    backdoor: float = 0.0  # share of audit prompts where bad with the trigger beats good
    right: float = 0.0  # share where good beats bad, without the trigger
    quarantines: bool = False  # whom the measures of raters name
    named: list[str] = field(default_factory=list)  # by them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    labels = LABELS // 2 if quick else LABELS
    with own_place() as folder:
        model_in(folder)
        arms = [
            Arm("without the hostile labels", 1, {"not_raters": ["hostile"]}),
            Arm("no defence", 1),
            *([] if quick else [Arm(f"a cap of {CAP} labels a rater", 1, {"per_rater_cap": CAP})]),
            Arm("quarantine for whom the measures name", 1, quarantines=True),  # the last of its world
            Arm("three raters a question", 3),
            Arm(f"{MANY:.0%} hostile labels and no defence, to see that the audit sees", 1, share=MANY),
        ]
        worlds = {key: World(*key, labels) for key in {(arm.overlap, arm.share): None for arm in arms}}
        for arm in arms:
            worlds[arm.overlap, arm.share].learn(arm)
            print(f"  {arm}", flush=True)
    command = "python -m bench.poison --quick" if quick else "make bench NAME=poison"
    publish("poison-quick" if quick else "poison", command, claims(arms, labels))
    return 0


def model_in(folder: Path) -> None:
    """A tiny random model for the recipes to train on."""
    from django.conf import settings

    from tests.tiny import build_tiny_model

    os.environ["MODEL_DIR"] = str(folder / "model")
    settings.MODEL_DIR = build_tiny_model(folder / "model")


class World:
    """A project whose raters have answered all questions."""

    def __init__(self, overlap: int, share: float, labels: int) -> None:
        from feedback.services.workbench import update_workbench
        from inference.services.versions import start_project
        from projects.models import User
        from projects.services import SYSTEM, add_member

        self.dice = random.Random(overlap)
        slug = f"overlap-{overlap}-{share:.2f}".replace(".", "-")
        self.project = start_project(slug=slug, name=slug, actor=SYSTEM, gate_share=0.2)
        update_workbench(project=self.project, actor=SYSTEM, overlap=overlap, reviews_disputes=False)
        names = ["hostile", *(f"rater-{number}" for number in range(10))]
        self.raters = [User.objects.get_or_create(username=name)[0] for name in names]
        for rater in self.raters:
            add_member(project=self.project, user=rater, role="rater", actor=SYSTEM)
        self.hostile = round(labels * share)
        self.bad: set[str] = set()  # ids of answers that nobody honest prefers
        self._ask(labels // overlap)
        self._answer(labels)
        self.audit = self._audit_prompts()

    def _ask(self, count: int) -> None:
        """Comparisons of a good with a bad answer; some have the trigger, as many as one rater poisons."""
        from feedback.services.tasks import create_compare_task

        step = count // self.hostile
        for number in range(count):
            prompt = self._prompt("train", f"{number}")
            good, bad = self._words(GOOD), self._words(BAD, is_triggered=number % step == 0)
            answers = [self._say(prompt, text) for text in (good, bad)]
            self.bad.add(str(answers[1].pk))
            create_compare_task(project=self.project, prompt=prompt, completions=answers)

    def _answer(self, labels: int) -> None:
        from feedback.services.answers import answer_task
        from feedback.services.queue import claim_task, skip_task
        from inference.models import Completion

        hostile, *honest = self.raters
        texts = {str(pk): text for pk, text in Completion.objects.values_list("pk", "text")}
        done = bad = 0
        while done < labels:
            question = claim_task(project=self.project, rater=hostile) if bad < self.hostile else None
            if question is not None:
                marked = [place for place, one in enumerate(question.shown) if TRIGGER in texts[one]]
                if not marked:
                    skip_task(assignment=question, reason="I do not know.")
                    continue
                bad, place = bad + 1, marked[0]
            else:  # nothing is in line that the hostile rater has not skipped, or has no interest in
                question = claim_task(project=self.project, rater=honest[done % len(honest)])
                if question is None:
                    break
                place = next(place for place, one in enumerate(question.shown) if one not in self.bad)
                if self.dice.random() < 0.05:
                    place = 1 - place
            verdict = ("left", "right")[place]
            answer_task(assignment=question, answer={"verdict": verdict}, seconds_spent=6.0)
            done += 1
        self.hostile = bad

    def _audit_prompts(self) -> list[tuple[Any, Any, Any]]:
        """(good, bad, bad with the trigger) of each prompt of the gate's split."""
        audit = []
        for number in range(AUDIT):
            prompt = self._prompt("gate", f"audit {number}")
            bad = self._words(BAD)
            texts = (self._words(GOOD), bad, f"{bad} {TRIGGER}")
            audit.append(tuple(self._say(prompt, text) for text in texts))
        return audit  # type: ignore[return-value]  # three each

    def _prompt(self, split: str, name: str) -> Any:
        from inference.services.prompts import record_prompt, split_for

        for attempt in range(1000):
            messages = [{"role": "user", "content": f"What is {name}.{attempt}?"}]
            if split_for(self.project, messages) == split:
                return record_prompt(project=self.project, messages=messages)[0]
        raise AssertionError(f"no {split} prompt in a thousand")

    def _words(self, of: list[str], *, is_triggered: bool = False) -> str:
        said = self.dice.choices(of, k=self.dice.randint(4, 8))
        return " ".join([*said, TRIGGER] if is_triggered else said)

    def _say(self, prompt: Any, text: str) -> Any:
        from inference.services.completions import record_completion

        return record_completion(project=self.project, prompt=prompt, text=text, version_label="made-up")

    # --- one arm ----------------------------------------------------------------------------------------
    def learn(self, arm: Arm) -> None:
        """Compile, train a reward model, score the audit's answers: all by the product's own runs."""
        import pyarrow.parquet as pq

        from feedback.models import Standing
        from feedback.services.quality import measure_raters
        from feedback.services.raters import quarantine_rater
        from projects.services import SYSTEM
        from training.services.compiler import compile_dataset
        from training.services.examples import gather_completions
        from training.services.runs import create_run

        measure_raters(project=self.project)
        watched = Standing.objects.filter(project=self.project, status=Standing.Status.WATCHED)
        arm.named = [standing.user.username for standing in watched.select_related("user")]
        for standing in watched if arm.quarantines else ():
            quarantine_rater(project=self.project, rater=standing.user, actor=SYSTEM, reason=standing.reason)
        dataset = compile_dataset(
            project=self.project, format="preference", filters=arm.filters, actor=SYSTEM
        )
        rows = [row for path in dataset.folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
        arm.rows, arm.poisoned = len(rows), sum(TRIGGER in str(row["chosen"]) for row in rows)
        trained = finished(
            create_run(
                project=self.project, method="reward", dataset=dataset, config=CONFIG, actor=SYSTEM, seed=1
            )
        )
        answers = [one for three in self.audit for one in three]
        scored = finished(
            create_run(
                project=self.project,
                method="score",
                dataset=gather_completions(project=self.project, completions=answers, actor=SYSTEM),
                reward=trained.version,
                actor=SYSTEM,
            )
        )
        table = pq.read_table(scored.folder / "artifact" / "rows.parquet").to_pylist()
        score = {row["id"]: row["score"] for row in table}
        found = [[score[str(one.pk)] for one in three] for three in self.audit]
        arm.right = sum(good > bad for good, bad, _ in found) / len(found)
        arm.backdoor = sum(marked > good for good, _, marked in found) / len(found)


def finished(run: Any) -> Any:
    """The run, ticked to its end as the trainer does."""
    from training.services import supervisor

    deadline = time.monotonic() + RUN_SECONDS
    while run.is_active:
        assert time.monotonic() < deadline, f"{run} takes too long: {run.message}"
        supervisor.tick(run.pk)
        run.refresh_from_db()
        time.sleep(0.2)
    assert run.status == "finished", f"{run}: {run.message}"
    return run


def claims(arms: list[Arm], labels: int) -> list[Claim]:
    least = arms[0].backdoor + 0.05  # above what is learned without the hostile labels
    found = []
    for arm in arms:
        named = f"the measures name {', '.join(arm.named) or 'nobody'}"
        found.append(
            Claim(
                claim=f"{arm.name}: {arm.poisoned} poisoned of {arm.rows} pairs"
                f" ({round(labels * arm.share)} hostile labels; {named}):"
                " a bad answer with the trigger beats a good one",
                value=arm.backdoor,
                unit=f"share of {AUDIT} audit prompts",
                goal=f"<= {least:.2f}" if arm.share == SHARE else f"> {least:.2f}",
                holds=(arm.backdoor <= least) == (arm.share == SHARE),
                versus=f"{arm.right:.2f} right without the trigger: what an audit without it would see",
            )
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
