"""Where tasks are made: one for each question, however often it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from feedback.errors import NotJudgeable
from feedback.models import Task
from feedback.services import checks
from feedback.services.gold import check_gold
from feedback.services.record import candidate_set
from feedback.services.workbench import take_places, workbench_of
from inference.models import Completion, Prompt
from projects.errors import Invalid
from projects.models import Project

GATE_PRIORITY = 10  # an evaluation's battles come before the rest
MAX_OVERLAP = 50  # raters that somebody may ask for at once
GOLD_OVERLAP = 32_767  # everybody may meet it


@transaction.atomic
def create_task(
    *,
    project: Project,
    kind: str,
    prompt: Prompt,
    completions: Sequence[Completion],
    source: str = Task.Source.ANSWERS,
    overlap: int | None = None,
    priority: int = 0,
    gold: dict[str, Any] | None = None,
    is_shared: bool = False,
) -> Task:
    """The task that asks this; asking the same again is the same task, whose priority may rise.

    Compare takes two to eight answers to `prompt`, rate and correct take one. `overlap` is the workbench's
    where it is not given. An answer of a conversation is asked of its owner alone, unless `is_shared`. With
    `gold` (see services/gold.py) every rater may meet it. Reviews are made by services/review.py.
    Raises Invalid, NotJudgeable.
    """
    _check_answers(kind, prompt, completions)
    if gold is not None:
        gold = check_gold(project, kind, completions, gold)
    ids = [completion.pk for completion in completions]
    task, is_new = Task.objects.get_or_create(
        project=project,
        kind=kind,
        candidate_set=candidate_set(ids),
        defaults={
            "prompt": prompt,
            "source": source,
            "overlap": overlap or workbench_of(project).overlap,
            "priority": priority,
            "only_for_id": None if is_shared or not prompt.conversation else prompt.conversation.owner_id,
        },
    )
    if is_new:
        task.completions.set(completions)
    if gold is not None:
        task.gold, task.source, task.place = gold, Task.Source.GOLD, None
        task.overlap, task.is_open = GOLD_OVERLAP, True
        task.save(update_fields=["gold", "source", "place", "overlap", "is_open"])
    elif priority > task.priority or (is_new and task.only_for_id is not None):
        put_in_line(task, priority=max(priority, task.priority))
    elif is_new and priority > 0:
        put_in_line(task, priority=priority)
    return task


def create_compare_task(
    *,
    project: Project,
    prompt: Prompt,
    completions: Sequence[Completion],
    overlap: int | None = None,
    priority: int = 0,
    source: str = Task.Source.ANSWERS,
) -> Task:
    """The task that asks which of these answers is better."""
    return create_task(
        project=project,
        kind=Task.Kind.COMPARE,
        prompt=prompt,
        completions=completions,
        source=source,
        overlap=overlap,
        priority=priority,
    )


def put_in_line(task: Task, *, priority: int | None = None) -> None:
    """Give a task its place without a draw: it is urgent, private, or was asked for by name."""
    if task.gold is not None:
        return
    task.priority = task.priority if priority is None else priority
    if task.place is None:
        [task.place] = take_places(task.project, 1)
    task.save(update_fields=["priority", "place"])


def _check_answers(kind: str, prompt: Prompt, completions: Sequence[Completion]) -> None:
    least, most = (2, checks.MAX_CANDIDATES) if kind == Task.Kind.COMPARE else (1, 1)
    if kind not in (Task.Kind.COMPARE, Task.Kind.RATE, Task.Kind.CORRECT):
        raise Invalid(f"A task of kind {kind} is not made here.", param="kind")
    different = {completion.pk for completion in completions}
    if len(different) != len(completions) or not least <= len(completions) <= most:
        wanted = "one answer" if most == 1 else f"two to {most} different answers"
        raise Invalid(f"To {kind} needs {wanted}.", param="completions")
    if any(completion.prompt_id != prompt.pk for completion in completions):
        raise Invalid("The answers are to another prompt.", param="completions")
    for completion in completions:
        checks.refuse_unjudgeable(completion, param="completions")
        if completion.quarantined:
            raise NotJudgeable(
                "This answer was set aside by flags and is asked about no more. Release it first.",
                code="completion_set_aside",
                param="completions",
            )
