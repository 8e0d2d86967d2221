"""What an evaluation learns without people: a reward model's opinion of its answers, and frozen texts.

One run of method `evaluate` reads both. Its reward model must know nothing of the case: one that learned from
the judgements that made the candidate would only say the same again, so it is not asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
from django.utils import timezone

from inference.models import Completion, Version
from projects.errors import Problem
from projects.services import SYSTEM
from training.models import Dataset, Evaluation, Run
from training.services.data.index import FEEDBACK, SOURCES, ids_of
from training.services.examples import gather_examples
from training.services.frozen_texts import NAME, TEXTS
from training.services.gate import judge_score, win_rate
from training.services.methods import reward_model_problem
from training.services.runs import create_run

logger = logging.getLogger(__name__)

QUEUED = timedelta(seconds=60)  # a verdict waits for a trainer that takes the run so soon, not for none
PAGE = 10_000


@dataclass(frozen=True)
class Evidence:
    """`judge` and `perplexity` are empty where there is none; `no_judge` and `problem` say why."""

    judge: dict[str, Any] = field(default_factory=dict)  # version, n, win_rate, ci_low, ci_high
    perplexity: dict[str, Any] = field(default_factory=dict)  # texts, candidate, base
    scores: dict[str, list[float]] = field(default_factory=dict)  # prompt id -> candidate's, champion's
    no_judge: str = ""  # why no reward model was asked, in a sentence
    problem: str = ""  # why nothing was measured


def start_evidence(evaluation: Evaluation, answers: Iterable[tuple[Completion, Completion]]) -> Run | None:
    """Queue the run, once an evaluation; None when it cannot be. `answers`: (candidate's, champion's)."""
    slot = slot_of(evaluation)
    found = Run.objects.filter(project=evaluation.project, slot=slot).first()
    if found is not None:
        return found
    judge, problem = find_judge(evaluation)
    candidate = evaluation.candidate
    try:
        dataset = gather_examples(
            project=evaluation.project,
            texts=TEXTS,
            answers=answers if judge is not None else (),
            actor=SYSTEM,
        )
        run = create_run(
            project=evaluation.project,
            method="evaluate",
            dataset=dataset,
            judged=candidate if candidate.kind == Version.Kind.ADAPTER else None,
            reward=judge,
            slot=slot,
            actor=SYSTEM,
        )
    except Problem as error:
        logger.warning("%s has no second judge: %s", evaluation, error.message)
        problem, run = problem or error.message, None
    if problem:
        numbers = {**evaluation.numbers, "no_judge": problem}
        Evaluation.objects.filter(pk=evaluation.pk).update(numbers=numbers)
        evaluation.numbers = numbers
    return run


def is_awaited(evaluation: Evaluation) -> bool:
    """True while the run is being worked on, or has just been queued."""
    run = _run_of(evaluation)
    if run is None or not run.is_active:
        return False
    return run.status == Run.Status.RUNNING or timezone.now() - run.created < QUEUED


def read_evidence(evaluation: Evaluation) -> Evidence:
    """What the run found, from its rows."""
    run = _run_of(evaluation)
    no_judge = str(evaluation.numbers.get("no_judge", ""))
    if run is None:
        return Evidence(no_judge=no_judge, problem="It was not measured: Ratchet did not make the answers.")
    if run.status != Run.Status.FINISHED:
        said = f"Run {run.number}, which measures it, is {run.status}. {run.message}"
        return Evidence(no_judge=no_judge, problem=said.strip())
    try:
        rows = pq.read_table(run.folder / "artifact" / "rows.parquet").to_pylist()
    except OSError as error:
        return Evidence(problem=f"The rows of run {run.number} cannot be read: {error}.")
    scores = {
        row["id"]: [row["value"], row["value_base"]]
        for row in rows
        if row["part"] == "answers" and row["value"] is not None
    }
    judge: dict[str, Any] = {}
    if scores and run.reward is not None:
        result = win_rate({id_: [judge_score(*both)] for id_, both in scores.items()})
        judge = {
            "version": run.reward.label,
            "run": run.number,
            "n": result.n,
            "win_rate": result.win_rate,
            "ci_low": result.ci_low,
            "ci_high": result.ci_high,
        }
    perplexity: dict[str, Any] = {}
    if "perplexity" in run.metrics:
        perplexity = {
            "texts": f"{len(TEXTS)} of {NAME}",
            "candidate": run.metrics["perplexity"],
            "base": run.metrics["perplexity_base"],
        }
    return Evidence(judge, perplexity, scores, no_judge)


def find_judge(evaluation: Evaluation) -> tuple[Version | None, str]:
    """The newest reward model that knows nothing of the case; without one, why, in a sentence."""
    rows = Version.objects.filter(
        project=evaluation.project, kind=Version.Kind.REWARD, status=Version.Status.AVAILABLE
    ).select_related("project", "run__dataset")
    problem = f"{evaluation.project.slug} has no reward model."
    for version in rows.order_by("-number")[:20]:
        found = reward_model_problem(evaluation.project, version) or _knows(version, evaluation)
        if not found:
            return version, ""
        problem = found
    return None, problem


def slot_of(evaluation: Evaluation) -> str:
    return f"evaluation:{evaluation.number}"


def _run_of(evaluation: Evaluation) -> Run | None:
    rows = Run.objects.filter(project=evaluation.project, slot=slot_of(evaluation))
    return rows.select_related("reward__project").first()


def _knows(reward: Version, evaluation: Evaluation) -> str:
    """What a reward model was taught of this case, in a sentence; empty when nothing."""
    learned = _dataset_of(reward)
    if learned is None:
        return f"Nobody knows what {reward.label} learned from."
    with ids_of(learned.folder, SOURCES) as sources:
        seen = len(sources.among([UUID(id_) for id_ in evaluation.prompt_ids]))
    if seen:
        return f"{reward.label} learned from {seen} of the gate's prompts."
    made = _dataset_of(evaluation.candidate)
    if made is None or made.format in (Dataset.Format.PROMPTS, Dataset.Format.TEXT):
        return ""  # it learned from no judgement
    shared = 0
    with ids_of(made.folder, FEEDBACK) as ours, ids_of(learned.folder, FEEDBACK) as theirs:
        total = len(ours)
        for start in range(0, total, PAGE):
            shared += len(theirs.among(ours.page(start, PAGE)))
    if not shared:
        return ""
    return (
        f"{reward.label} learned from {shared} of the {total} judgements that made the candidate, so it is "
        "not asked. Train a reward model on others, such as those of other raters."
    )


def _dataset_of(version: Version) -> Dataset | None:
    run: Run | None = getattr(version, "run", None)
    return run.dataset if run is not None else None
