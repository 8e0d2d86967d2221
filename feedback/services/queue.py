"""The queue of questions: claim, answer, skip, undo; and where new questions come from.

Whatever changes how many raters hold or answered a task first locks the task's row, so the overlap is never
exceeded: on PostgreSQL claims skip rows that somebody holds, and on SQLite a transaction is IMMEDIATE and
there is one writer at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from feedback.errors import AlreadyJudged, LeaseLost
from feedback.models import Assignment, Feedback, Preference, Task
from feedback.services import checks
from feedback.services.judge import Judge
from feedback.services.record import candidate_set, record_preference, retract_feedback
from inference.models import Completion, Prompt
from projects.errors import Invalid, NotFound
from projects.models import Project, User

Verdict = Literal["left", "right", "tie", "both_bad"]
RANKS: dict[Verdict, list[int] | None] = {
    "left": [1, 2],
    "right": [2, 1],
    "tie": [1, 1],
    "both_bad": None,
}
LEASE = timedelta(minutes=15)
GATE_PRIORITY = 10  # an evaluation's battles come before the rest
COUNT_LIMIT = 1_000
_dice = random.SystemRandom()


def create_compare_task(
    *,
    project: Project,
    prompt: Prompt,
    completions: Sequence[Completion],
    overlap: int = 1,
    priority: int = 0,
) -> Task:
    """The task that asks which of these two answers is better; asking the same again is the same task."""
    ids = [completion.pk for completion in completions]
    if len(set(ids)) != 2 or any(completion.prompt_id != prompt.pk for completion in completions):
        raise Invalid("A comparison needs two different answers to the same prompt.", param="completions")
    for completion in completions:
        checks.refuse_unjudgeable(completion, param="completions")
    with transaction.atomic():
        task, is_new = Task.objects.get_or_create(
            project=project,
            candidate_set=candidate_set(ids),
            defaults={"prompt": prompt, "overlap": overlap, "priority": priority},
        )
        if is_new:
            task.completions.set(completions)
        elif priority > task.priority:
            Task.objects.filter(pk=task.pk).update(priority=priority)
            task.priority = priority
    return task


def claim_task(*, project: Project, rater: User, besides: Sequence[UUID] = ()) -> Assignment | None:
    """The rater's next question: the one they hold, else an open one, else one made from answers at hand.

    `besides`: assignments that the rater's page shows already, so that it can fetch one ahead. None when
    there is nothing to ask this rater.
    """
    shown = list(Assignment.objects.filter(pk__in=besides, rater=rater).values_list("task_id", flat=True))
    return (
        _claim_held(project, rater, shown)
        or _claim_open(project, rater, shown, skip_locked=True)
        or _claim_made(project, rater, shown)
        # Every open task was in somebody's hands for a moment: wait for them this time.
        or _claim_open(project, rater, shown, skip_locked=False)
    )


def assignment_for(*, project: Project, rater: User, assignment_id: UUID) -> Assignment:
    """The rater's own assignment. Raises NotFound."""
    found = Assignment.objects.select_related("task__prompt", "task__project", "rater").filter(
        pk=assignment_id, rater=rater, task__project=project
    )
    assignment = found.first()
    if assignment is None:
        raise NotFound("There is no such task of yours.", param="assignment")
    return assignment


@transaction.atomic
def answer_task(
    *,
    assignment: Assignment,
    verdict: Verdict,
    seconds_spent: float | None = None,
    client_id: UUID | None = None,
) -> Preference:
    """Record the verdict as a preference and close the assignment; the same answer twice is one.

    Raises LeaseLost when others took the rater's place after the lease ran out, AlreadyJudged, NotJudgeable.
    """
    if verdict not in RANKS:
        raise Invalid(f"verdict must be one of {', '.join(RANKS)}.", param="verdict")
    task = _locked(assignment.task_id)
    assignment.refresh_from_db(fields=["state", "preference", "lease_until", "shown"])
    ranks = RANKS[verdict]
    if assignment.state == Assignment.State.DONE and assignment.preference is not None:
        return _same_answer(assignment.preference, ranks)
    if assignment.state != Assignment.State.LEASED or not _has_room(task, besides=assignment):
        raise LeaseLost()
    preference, _ = record_preference(
        project=task.project,
        judge=Judge(user=assignment.rater),
        candidates=[UUID(one) for one in assignment.shown],
        ranks=ranks,
        all_bad=ranks is None,
        source=Feedback.Source.UI,
        id=client_id,
        seconds_spent=seconds_spent,
    )
    assignment.state, assignment.preference = Assignment.State.DONE, preference
    assignment.closed = timezone.now()
    assignment.save(update_fields=["state", "preference", "closed"])
    task.done += 1
    task.is_open = task.done < task.overlap
    task.save(update_fields=["done", "is_open"])
    return preference


def skip_task(*, assignment: Assignment, reason: str = "") -> bool:
    """Give the task to others; False when it was no longer the rater's to give."""
    count = Assignment.objects.filter(pk=assignment.pk, state=Assignment.State.LEASED).update(
        state=Assignment.State.SKIPPED, skip_reason=reason[:200], closed=timezone.now()
    )
    return bool(count)


@transaction.atomic
def undo_last(*, project: Project, rater: User) -> Assignment | None:
    """Take back the rater's last answer or skip: the judgement is retracted and the question is theirs again.

    None when there is nothing to undo. Raises LeaseLost when others took the place of a skipped task.
    """
    closed = Assignment.objects.filter(rater=rater, task__project=project, closed__isnull=False)
    last = closed.order_by("-closed").first()
    if last is None:
        return None
    task = _locked(last.task_id)
    if last.preference_id is not None:
        retract_feedback(project=project, judge=Judge(user=rater), feedback_id=last.preference_id)
    elif not task.is_open or not _has_room(task, besides=last):
        raise LeaseLost("Others have answered the task that you skipped. Take the next one.")
    last.state, last.preference, last.closed = Assignment.State.LEASED, None, None
    last.skip_reason, last.lease_until = "", timezone.now() + LEASE
    last.save(update_fields=["state", "preference", "closed", "skip_reason", "lease_until"])
    return last


def waiting_count(project: Project, rater: User) -> int:
    """How many questions this rater could answer now, counted up to a thousand."""
    waiting = _open_tasks(project, rater)[:COUNT_LIMIT].count()
    if waiting < COUNT_LIMIT:
        waiting += _askable_prompts(project, rater)[: COUNT_LIMIT - waiting].count()
    return waiting


# --- claiming --------------------------------------------------------------------------------------------
def _claim_held(project: Project, rater: User, shown: Sequence[UUID]) -> Assignment | None:
    """What the rater holds already, its lease renewed: a reload shows the same question."""
    now = timezone.now()
    held = Assignment.objects.select_related("task__prompt", "task__project", "rater").filter(
        rater=rater, state=Assignment.State.LEASED, lease_until__gt=now
    )
    open_tasks = Task.objects.filter(project=project, is_open=True).exclude(pk__in=shown)
    held = held.filter(task__in=_askable(open_tasks, rater))
    assignment = held.order_by("-lease_until").first()
    if assignment is None:
        return None
    still = Assignment.objects.filter(pk=assignment.pk, state=Assignment.State.LEASED, lease_until__gt=now)
    return assignment if still.update(lease_until=now + LEASE) else None


def _claim_open(
    project: Project, rater: User, shown: Sequence[UUID], *, skip_locked: bool
) -> Assignment | None:
    full = list(shown)
    with transaction.atomic():
        # One claim a rater at a time: two windows opened together show the same question.
        User.objects.select_for_update(no_key=True).get(pk=rater.pk)
        if held := _claim_held(project, rater, shown):
            return held
        while True:
            open_tasks = _open_tasks(project, rater).exclude(pk__in=full)
            task = open_tasks.select_for_update(of=("self",), skip_locked=skip_locked).first()
            if task is None:
                return None
            # Counted again under the lock: somebody may have taken the last place since the query's snapshot.
            mine = Assignment.objects.filter(task=task, rater=rater).first()
            if task.is_open and _has_room(task, besides=mine):
                return _lease(task, rater, mine)
            full.append(task.pk)


def _claim_made(project: Project, rater: User, shown: Sequence[UUID]) -> Assignment | None:
    """A new question from a prompt that has different answers and about which nobody was asked."""
    while prompt := _askable_prompts(project, rater).order_by("-id").first():
        answers = list(prompt.completions.filter(state=Completion.State.FINISHED, quarantined=False))
        _dice.shuffle(answers)
        others = [answer for answer in answers if answer.text != answers[0].text]
        if others:
            create_compare_task(project=project, prompt=prompt, completions=[answers[0], others[0]])
        # None when somebody else made a question from it first and took it; then the next prompt.
        if assignment := _claim_open(project, rater, shown, skip_locked=False):
            return assignment
    return None


def _lease(task: Task, rater: User, mine: Assignment | None) -> Assignment:
    """Sides are shuffled here, once; a rater who comes back sees them as before."""
    until = timezone.now() + LEASE
    if mine is not None:
        mine.lease_until = until
        mine.save(update_fields=["lease_until"])
        return mine
    shown = [str(one) for one in task.completions.order_by("pk").values_list("pk", flat=True)]
    _dice.shuffle(shown)
    return Assignment.objects.create(task=task, rater=rater, shown=shown, lease_until=until)


def _has_room(task: Task, *, besides: Assignment | None) -> bool:
    """Whether fewer than `overlap` other raters answered the task or hold it. The task's row is locked."""
    others = task.assignments.exclude(pk=besides.pk) if besides else task.assignments.all()
    return others.filter(_takes_a_place()).count() < task.overlap


def _takes_a_place() -> Q:
    held = Q(state=Assignment.State.LEASED, lease_until__gt=timezone.now())
    return Q(state=Assignment.State.DONE) | held


def _locked(task_id: UUID) -> Task:
    return Task.objects.select_for_update(of=("self",)).select_related("project").get(pk=task_id)


def _same_answer(first: Preference, ranks: list[int] | None) -> Preference:
    """A button pressed twice. Raises AlreadyJudged when the second answer is another one."""
    given = [side.rank for side in first.candidates.order_by("position") if side.rank is not None]
    if given != (ranks or []):
        raise AlreadyJudged(first.pk)
    return first


# --- what can be asked -----------------------------------------------------------------------------------
def _open_tasks(project: Project, rater: User) -> QuerySet[Task]:
    """Open tasks with a free place that this rater neither answered nor skipped, in order."""
    assigned = Assignment.objects.filter(task=OuterRef("pk"))
    others = assigned.exclude(rater=rater).filter(_takes_a_place()).order_by().values("task")
    taken = Subquery(others.annotate(count=Count("pk")).values("count"))
    closed = assigned.filter(rater=rater).exclude(state=Assignment.State.LEASED)
    tasks = Task.objects.filter(~Exists(closed), project=project, is_open=True)
    tasks = tasks.annotate(taken=taken).filter(Q(taken=None) | Q(taken__lt=F("overlap")))
    return _askable(tasks, rater).order_by("-priority", "id")


def _askable(tasks: QuerySet[Task], rater: User) -> QuerySet[Task]:
    """Without other people's conversations, what the rater judged elsewhere, and answers out of use."""
    judged = Preference.objects.usable().filter(
        candidate_set=OuterRef("candidate_set"), judge=Judge(user=rater).key
    )
    through = Task.completions.through.objects.filter(task=OuterRef("pk"))
    unusable = through.exclude(completion__state__in=Completion.JUDGEABLE, completion__quarantined=False)
    return tasks.filter(
        ~Exists(judged),
        ~Exists(unusable),
        Q(prompt__conversation=None) | Q(prompt__conversation__owner=rater),
    )


def _askable_prompts(project: Project, rater: User) -> QuerySet[Prompt]:
    """Train prompts with two finished answers that differ, and that nobody was asked about."""
    answers = Completion.objects.filter(
        prompt=OuterRef("pk"), state=Completion.State.FINISHED, quarantined=False
    )
    first_text = Subquery(answers.order_by("id").values("text")[:1])
    prompts = Prompt.objects.for_training().filter(
        Q(conversation=None) | Q(conversation__owner=rater),
        ~Exists(Task.objects.filter(prompt=OuterRef("pk"))),
        ~Exists(Preference.objects.usable().filter(prompt=OuterRef("pk"))),
        project=project,
    )
    prompts = prompts.annotate(first_text=first_text)
    return prompts.filter(Exists(answers.exclude(text=OuterRef("first_text"))))
