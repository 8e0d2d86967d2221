"""What a manager does about tasks: makes a batch, withdraws one, asks for another rater, frees its places.

Locks are taken as in services/queue.py: the task, then its assignments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Q, QuerySet

from feedback.models import Assignment, Task
from feedback.services import checks
from feedback.services.gold import is_met
from feedback.services.queue import FOR_RATERS, locked_task
from feedback.services.tasks import MAX_OVERLAP, create_task, put_in_line
from feedback.services.workbench import workbench_of
from inference.models import Completion, Prompt
from inference.services.completions import record_completion
from inference.services.prompts import record_prompt
from projects.errors import Conflict, Invalid, NotFound
from projects.models import Project
from projects.services import Actor, record_audit

MOST_AT_ONCE = 1_000
MOST_LOOKED_AT = 20_000  # prompts, newest first
CHUNK = 500
BY_HAND = "written by hand"  # the version label of gold's answers


class NothingToAsk(Conflict):
    """No prompt fits what was wanted."""

    code = "nothing_to_ask"


def make_tasks(
    *, project: Project, kind: str, count: int, tag: str = "", overlap: int | None = None, actor: Actor
) -> int:
    """Tasks of `kind` for the newest training prompts that have the answers and were not asked so yet.

    Compare takes the two newest answers that differ, rate and correct the newest one. `tag` keeps those that
    carry it. Prompts of conversations are left out: they are their owners' own. Returns how many are new.
    Raises Invalid, NothingToAsk.
    """
    if kind not in FOR_RATERS:
        raise Invalid("Tasks to compare, rate or correct can be made.", param="kind")
    if not 1 <= count <= MOST_AT_ONCE:
        raise Invalid(f"Make 1 to {MOST_AT_ONCE} at once.", param="count")
    if overlap is not None and not 1 <= overlap <= MAX_OVERLAP:
        raise Invalid(f"1 to {MAX_OVERLAP} raters can be asked.", param="overlap")
    made, looked_at, last = 0, 0, None
    while made < count and looked_at < MOST_LOOKED_AT:
        prompts = _prompts_without(project, kind, before=last)
        if not prompts:
            break
        looked_at, last = looked_at + len(prompts), prompts[-1].pk
        fitting = [prompt for prompt in prompts if not tag or tag in prompt.tags]
        answers = _answers_of(fitting)
        for prompt in fitting:
            chosen = _chosen(kind, answers.get(prompt.pk, []))
            if chosen and made < count:
                create_task(
                    project=project,
                    kind=kind,
                    prompt=prompt,
                    completions=chosen,
                    source=Task.Source.IMPORT,
                    overlap=overlap,
                )
                made += 1
    if not made:
        needed = "two answers that differ" if kind == Task.Kind.COMPARE else "an answer"
        raise NothingToAsk(
            f"No training prompt{f' tagged {tag}' if tag else ''} has {needed} and was not asked about yet."
        )
    record_audit(
        project=project,
        actor=actor,
        action="tasks.made",
        subject=f"project:{project.slug}",
        detail={"kind": kind, "count": made, "tag": tag, "overlap": overlap},
    )
    return made


@transaction.atomic
def withdraw_task(*, task: Task, actor: Actor) -> Task:
    """No more raters for it; what was said stays. Who holds it just now is told that it is gone."""
    task = locked_task(task.pk, task.project)
    _lapse(task)
    # Complete with those who answered, so that nothing opens its other places again.
    values: dict[str, Any] = {"held": 0, "is_open": False}
    if task.gold is None:
        values["overlap"] = max(1, task.done)
    Task.objects.filter(pk=task.pk).update(**values)
    _audit(task, actor, "task.withdrawn")
    return _fresh(task)


@transaction.atomic
def ask_another(*, task: Task, actor: Actor) -> Task:
    """One more rater, and soon: the task is open and at the head of the line."""
    task = locked_task(task.pk, task.project)
    overlap = task.overlap
    if task.held + task.done >= overlap:
        overlap = task.held + task.done + 1
    Task.objects.filter(pk=task.pk).update(overlap=overlap, is_open=True, outcome="", agreement=None)
    task = _fresh(task)
    put_in_line(task, priority=max(1, task.priority))
    _audit(task, actor, "task.reopened")
    return _fresh(task)


@transaction.atomic
def release_places(*, task: Task, actor: Actor) -> int:
    """Free the places that raters hold at this moment; a late answer counts while its place is free."""
    task = locked_task(task.pk, task.project)
    count = _lapse(task)
    Task.objects.filter(pk=task.pk).update(held=0)
    if count:
        _audit(task, actor, "task.released", places=count)
    return count


@transaction.atomic
def set_gold(*, task: Task, gold: dict[str, Any], actor: Actor) -> Task:
    """Say the known answer of a task (services/gold.py): it leaves the line and is slipped in for all.

    Another known answer than before is put to those who have met it too: who was right may be wrong now.
    Raises Invalid, and Conflict where raters have answered it as an ordinary question: their labels count.
    """
    if task.gold is None and task.done:
        raise Conflict("Raters have answered it already, and their answers count. Write a new one.")
    made = create_task(
        project=task.project,
        kind=task.kind,
        prompt=task.prompt,
        completions=list(task.completions.all()),
        gold=gold,
    )
    _mark(made)
    _audit(made, actor, "task.gold")
    return made


@transaction.atomic
def clear_gold(*, task: Task, actor: Actor) -> Task:
    """An ordinary question again: what raters said of it stays a label, and no longer tells who is good.

    Raises Conflict for a task that is no gold.
    """
    task = locked_task(task.pk, task.project)
    if task.gold is None:
        raise Conflict("It is an ordinary question already.")
    task.gold, task.source = None, Task.Source.ANSWERS
    task.overlap = max(workbench_of(task.project).overlap, task.held + task.done)
    task.is_open = task.done < task.overlap
    task.save(update_fields=["gold", "source", "overlap", "is_open"])
    _mark(task)
    _audit(task, actor, "task.ordinary")
    return _fresh(task)


@transaction.atomic
def write_gold(*, project: Project, question: str, best: str, worse: str, actor: Actor) -> Task:
    """A comparison whose answer is known, from three texts. Raises Invalid."""
    texts = {"best": best.strip(), "worse": worse.strip()}
    for name, text in texts.items():
        if not checks.is_visible(text):
            raise Invalid("Write both answers.", param=name)
    if texts["best"] == texts["worse"]:
        raise Invalid("The answers must differ.", param="worse")
    if not checks.is_visible(question):
        raise Invalid("Write the question.", param="question")
    prompt, _ = record_prompt(project=project, messages=[{"role": "user", "content": question.strip()}])
    first, second = (
        record_completion(project=project, prompt=prompt, text=text, version_label=BY_HAND)
        for text in texts.values()
    )
    task = create_task(
        project=project,
        kind=Task.Kind.COMPARE,
        prompt=prompt,
        completions=[first, second],
        gold={"best": [str(first.pk)]},
    )
    _audit(task, actor, "task.gold")
    return task


def task_for(*, project: Project, task_id: UUID) -> Task:
    """Raises NotFound."""
    task = (
        Task.objects.select_related("project", "prompt", "only_for")
        .filter(project=project, pk=task_id)
        .first()
    )
    if task is None:
        raise NotFound("There is no such task in this project.", param="task")
    return task


def gold_results(tasks: list[Task]) -> dict[UUID, tuple[int, int]]:
    """For each gold task: how many raters met it, and how many of them were right."""
    rows = (
        Assignment.objects.filter(task__in=tasks, is_correct__isnull=False)
        .values_list("task_id")
        .annotate(n=Count("pk"), right=Count("pk", filter=Q(is_correct=True)))
    )
    return {task_id: (n, right) for task_id, n, right in rows}


@dataclass(frozen=True)
class Progress:
    """Tasks of one kind, each counted up to `most`. Gold is left out."""

    kind: str
    label: str
    complete: int
    open: int
    in_line: int

    @property
    def total(self) -> int:
        return self.complete + self.open


def progress_of(project: Project, most: int) -> list[Progress]:
    """Of the kinds that there are any of."""
    found = []
    for kind, label in Task.Kind.choices:
        tasks = Task.objects.filter(project=project, kind=kind, gold__isnull=True).order_by()
        complete, is_open = (tasks.filter(is_open=value)[:most].count() for value in (False, True))
        in_line = Task.objects.in_line().filter(project=project, kind=kind).order_by()[:most].count()
        if complete or is_open:
            found.append(Progress(kind, str(label), complete, is_open, in_line))
    return found


def _prompts_without(project: Project, kind: str, *, before: UUID | None) -> list[Prompt]:
    prompts = Prompt.objects.for_training().filter(project=project, conversation=None)
    prompts = prompts.exclude(pk__in=Task.objects.filter(project=project, kind=kind).values("prompt_id"))
    if before is not None:
        prompts = prompts.filter(pk__lt=before)
    return list(prompts.order_by("-id")[:CHUNK])


def _answers_of(prompts: list[Prompt]) -> dict[UUID, list[Completion]]:
    found: dict[UUID, list[Completion]] = {}
    rows: QuerySet[Completion] = Completion.objects.judgeable().filter(prompt__in=prompts)
    for answer in rows.filter(state=Completion.State.FINISHED).order_by("-id"):
        if answer.text.strip():
            found.setdefault(answer.prompt_id, []).append(answer)
    return found


def _chosen(kind: str, answers: list[Completion]) -> list[Completion]:
    if kind != Task.Kind.COMPARE:
        return answers[:1]
    others = [answer for answer in answers[1:] if answer.text != answers[0].text]
    return [answers[0], others[0]] if others else []


def _mark(task: Task) -> None:
    """Right or wrong, of all who have met it, by what is known now; neither where nothing is."""
    for one in Assignment.objects.filter(task=task, state=Assignment.State.DONE).select_for_update():
        shown = [UUID(answer) for answer in one.shown]
        one.is_correct = None if task.gold is None else is_met(task.gold, shown, one.answer or {})
        one.save(update_fields=["is_correct"])


def _lapse(task: Task) -> int:
    held = Assignment.objects.filter(task=task, state=Assignment.State.LEASED)
    return held.update(state=Assignment.State.LAPSED)


def _fresh(task: Task) -> Task:
    return task_for(project=task.project, task_id=task.pk)


def _audit(task: Task, actor: Actor, action: str, **detail: Any) -> None:
    record_audit(project=task.project, actor=actor, action=action, subject=f"task:{task.pk}", detail=detail)
