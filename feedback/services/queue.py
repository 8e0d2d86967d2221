"""The line of questions as a rater meets it: claim, renew, skip, undo, and what to say when it is empty.

Locks are taken in one order: the rater's standing, the task, its assignment. Places are counted on the task's
row in the same transaction, and the database refuses more than its overlap. On PostgreSQL claims skip tasks
that somebody holds for a moment; on SQLite a transaction is IMMEDIATE and there is one writer at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, F, FilteredRelation, OuterRef, Q, QuerySet
from django.utils import timezone

from feedback.errors import AlreadyJudged, LeaseLost
from feedback.models import Assignment, Feedback, Preference, Rating, Standing, Task, Workbench
from feedback.services.draw import draw_tasks
from feedback.services.judge import Judge
from feedback.services.record import free_place, record_flag, retract_feedback
from feedback.services.sources import sweep_answers
from feedback.services.standings import locked_standing, must_qualify
from feedback.services.workbench import workbench_of
from inference.models import Completion
from projects.access import may
from projects.errors import Invalid, NotFound
from projects.models import Membership, Project, User
from projects.offload import lightly_committed

LEASE = timedelta(minutes=15)
COUNT_LIMIT = 1_000
COUNTED_TASKS = 100_000  # as far as the empty state counts
FOR_RATERS = (Task.Kind.COMPARE, Task.Kind.RATE, Task.Kind.CORRECT)
LAPSED_AT_ONCE = 50
TRIES = 20  # tasks that turn out to be no question for this rater, before a claim gives up for now
LOW = 20  # places left in the line, at which the next are drawn
_dice = random.SystemRandom()
_LIVE = ("project", "task__prompt", "task__disputed", "rater")


# --- claiming --------------------------------------------------------------------------------------------
def claim_task(
    *, project: Project, rater: User, besides: Sequence[UUID] = (), kinds: Sequence[str] = FOR_RATERS
) -> Assignment | None:
    """The rater's next question: the one they hold, else gold, else the first in line that is for them.

    `besides`: assignments that the rater's page shows already, so that it can fetch one ahead. `kinds`: what
    the page can show; `review` is for reviewers alone. None when there is nothing to ask: `queue_state` says
    why.
    """
    _check_kinds(project, rater, kinds)
    for wait in (False, True):
        # Skipping what others hold at this moment first; where nothing is left, waiting for them. A lease
        # that a power cut takes back is no loss, and waiting for the disk took most of a claim.
        with lightly_committed():
            if found := _claim(project, rater, besides, kinds, wait=wait):
                return found
        if not wait:
            sweep_answers(project=project)
            draw_tasks(project=project, kinds=kinds)
    return None


def _claim(
    project: Project, rater: User, besides: Sequence[UUID], kinds: Sequence[str], *, wait: bool
) -> Assignment | None:
    standing = locked_standing(project, rater)
    workbench = workbench_of(project)
    if why_not(standing, workbench):
        return None
    release_lapsed(project)
    shown: list[UUID] = []
    if besides:
        shown += Assignment.objects.filter(pk__in=besides, rater=rater).values_list("task_id", flat=True)
    if held := _renew_held(project, rater, shown, kinds):
        return held
    if Task.Kind.REVIEW not in kinds or len(kinds) > 1:
        qualifies = must_qualify(standing, workbench)
        if qualifies or _dice.random() < workbench.gold_share:
            gold = _lease_gold(project, rater, shown, kinds)
            if gold is not None or qualifies:
                return gold
    full = list(shown)
    for _ in range(TRIES):
        tasks = tasks_for(project, rater, kinds).exclude(pk__in=full)
        task = tasks.select_for_update(of=("self",), skip_locked=not wait).first()
        if task is None:
            return None
        task.project = standing.project
        if assignment := _lease(task, rater):
            return assignment
        full.append(task.pk)
    return None


def _renew_held(
    project: Project, rater: User, shown: Sequence[UUID], kinds: Sequence[str]
) -> Assignment | None:
    """What the rater holds already, its lease renewed: a reload shows the same question."""
    now = timezone.now()
    held = Assignment.objects.filter(
        project=project, rater=rater, state=Assignment.State.LEASED, lease_until__gt=now
    ).exclude(task__in=shown)
    ids = list(held.values_list("pk", flat=True))  # none, most of the time
    if not ids:
        return None
    found = Assignment.objects.select_related(*_LIVE).filter(pk__in=ids, task__kind__in=kinds)
    for assignment in found.order_by("-lease_until"):
        task = assignment.task
        if task.is_open and _usable_answers(task) and not judged_elsewhere(task, rater):
            assignment.lease_until = now + LEASE
            assignment.save(update_fields=["lease_until"])
            return assignment
        _give_back(assignment, "It can no longer be asked.")
    return None


def _lease_gold(
    project: Project, rater: User, shown: Sequence[UUID], kinds: Sequence[str]
) -> Assignment | None:
    gold = _gold_for(project, rater, kinds).exclude(pk__in=shown)
    ids = list(gold.values_list("pk", flat=True)[:COUNT_LIMIT])
    _dice.shuffle(ids)
    for pk in ids[:TRIES]:
        task = gold.filter(pk=pk, free__gt=0).select_for_update(of=("self",)).first()
        if task is not None and (assignment := _lease(task, rater)):
            return assignment
    return None


def _gold_for(project: Project, rater: User, kinds: Sequence[str]) -> QuerySet[Task]:
    """Gold that this rater has not met."""
    gold = Task.objects.filter(project=project, gold__isnull=False, is_open=True, kind__in=kinds)
    return _untouched(gold, rater)


def _lease(task: Task, rater: User) -> Assignment | None:
    """A place at the task, whose row is locked. None, and never again, where it cannot be this rater's.

    Sides are shuffled here, once; a rater who comes back sees them as before.
    """
    usable = _usable_answers(task)
    if not usable:
        Task.objects.filter(pk=task.pk).update(is_open=False)
        return None
    until = timezone.now() + LEASE
    mine_id: UUID | None = task.mine  # type: ignore[attr-defined]  # annotated by _untouched
    if mine_id is None:
        _dice.shuffle(usable)
        shown = [str(one) for one in usable]
        mine = Assignment(project=task.project, task=task, rater=rater, shown=shown)
    else:
        mine = Assignment.objects.select_related(*_LIVE).get(pk=mine_id)
    mine.state, mine.lease_until = Assignment.State.LEASED, until
    if judged_elsewhere(task, rater):
        mine.state, mine.skip_reason = Assignment.State.SKIPPED, "judged elsewhere"
        mine.save()
        return None
    Task.objects.filter(pk=task.pk).update(held=F("held") + 1)
    mine.save(force_insert=mine_id is None, force_update=mine_id is not None)
    return mine


def _usable_answers(task: Task) -> list[UUID]:
    """The ids of all answers of the task, oldest first; empty when one of them is out of use."""
    rows = list(task.completions.order_by("pk").values_list("pk", "state", "quarantined"))
    fine = all(state in Completion.JUDGEABLE and not quarantined for _, state, quarantined in rows)
    return [pk for pk, _, _ in rows] if fine else []


def judged_elsewhere(task: Task, rater: User) -> UUID | None:
    """The rater's own judgement of the same, such as from the chat page or a battle."""
    judge = Judge(user=rater).key
    rows: QuerySet[Preference] | QuerySet[Rating]
    if task.asks == Task.Kind.COMPARE:
        rows = Preference.objects.usable().filter(candidate_set=task.candidate_set, judge=judge)
    elif task.asks == Task.Kind.RATE:
        rows = Rating.objects.usable().filter(completion__tasks=task, judge=judge)
    else:
        return None  # a second correction of the same answer by the same person is refused when it comes
    return rows.values_list("pk", flat=True).first()


# --- what one does with a place --------------------------------------------------------------------------
def assignment_for(*, project: Project, rater: User, assignment_id: UUID) -> Assignment:
    """The rater's own assignment. Raises NotFound."""
    found = Assignment.objects.select_related("task__disputed").filter(rater=rater, project=project)
    assignment = found.filter(pk=assignment_id).first()
    if assignment is None:
        raise NotFound("There is no such task of yours.", param="assignment")
    assignment.project, assignment.rater = project, rater
    return assignment


def renew_lease(*, assignment: Assignment) -> datetime:
    """The rater is still at it. Raises LeaseLost when the place is no longer theirs."""
    until = timezone.now() + LEASE
    held = Assignment.objects.filter(pk=assignment.pk, state=Assignment.State.LEASED)
    if not held.update(lease_until=until):
        raise LeaseLost()
    return until


@transaction.atomic
def skip_task(*, assignment: Assignment, reason: str = "") -> bool:
    """Give the task to others; False when it was no longer the rater's to give."""
    task = locked_task(assignment.task_id, assignment.project)
    left = (Assignment.State.LEASED, Assignment.State.LAPSED)
    mine = Assignment.objects.select_for_update().get(pk=assignment.pk)
    if mine.state not in left:
        return False
    if mine.state == Assignment.State.LEASED:
        Task.objects.filter(pk=task.pk).update(held=F("held") - 1)
    mine.state, mine.skip_reason, mine.closed = Assignment.State.SKIPPED, reason[:200], timezone.now()
    mine.save(update_fields=["state", "skip_reason", "closed"])
    return True


@transaction.atomic
def flag_task(
    *, assignment: Assignment, completion_id: UUID, reason: str, client_id: UUID | None = None
) -> bool:
    """Flag an answer that the rater was shown, and skip the task; the same again is once. As `skip_task`.

    The flag comes first: it may set the answer aside, which locks answers before tasks.
    """
    with suppress(AlreadyJudged):  # flagged elsewhere
        record_flag(
            project=assignment.project,
            judge=Judge(user=assignment.rater),
            completion_id=completion_id,
            reason=reason,
            source=Feedback.Source.UI,
            id=client_id,
            assignment=assignment,
        )
    return skip_task(assignment=assignment, reason=f"flagged: {reason}")


@transaction.atomic
def undo_last(*, project: Project, rater: User) -> Assignment | None:
    """Take back the rater's last answer or skip: what was said is retracted and the question is theirs again.

    What was said becomes the draft. None when there is nothing to undo. Raises LeaseLost when others took the
    place of a skipped task.
    """
    standing = locked_standing(project, rater)
    closed = Assignment.objects.filter(project=project, rater=rater, closed__isnull=False)
    last = closed.order_by("-closed").first()
    if last is None:
        return None
    for flag in last.flags.usable():  # before the task is locked, as it may bring an answer back into use
        retract_feedback(project=project, judge=Judge(user=rater), feedback_id=flag.pk)
    task = locked_task(last.task_id, project)
    last = Assignment.objects.select_related(*_LIVE).get(pk=last.pk)
    if last.state == Assignment.State.DONE:
        for row in rows_of(last):
            retract_feedback(project=project, judge=Judge(user=rater), feedback_id=row.pk)
        free_place(last)  # where no row stood any more, nothing above did
        standing.answered = max(0, standing.answered_on(timezone.localdate()) - 1)
        standing.save(update_fields=["answered"])
        task = locked_task(last.task_id, project)
    if not task.is_open and not _usable_answers(task):
        raise LeaseLost("An answer of that task was set aside meanwhile. Take the next one.")
    if not task.is_open or task.free <= 0:
        raise LeaseLost("Others have answered the task that you skipped. Take the next one.")
    Task.objects.filter(pk=task.pk).update(held=F("held") + 1)
    last.state, last.closed, last.skip_reason, last.is_correct = Assignment.State.LEASED, None, "", None
    last.draft, last.answer, last.client_id = last.answer or last.draft, None, None
    last.lease_until = timezone.now() + LEASE
    last.save(
        update_fields=[
            "state", "closed", "skip_reason", "is_correct", "draft", "answer", "client_id", "lease_until",
        ]
    )  # fmt: skip
    return last


@transaction.atomic(savepoint=False)
def release_lapsed(project: Project) -> int:
    """Free the places whose lease ran out. Returns how many; what others hold at this moment comes later."""
    now = timezone.now()
    out = Assignment.objects.filter(project=project, state=Assignment.State.LEASED, lease_until__lte=now)
    ids = list(out.order_by("lease_until").values_list("task_id", flat=True)[:LAPSED_AT_ONCE])
    if not ids:
        return 0
    count = 0
    for task in Task.objects.filter(pk__in=ids).order_by("pk").select_for_update(skip_locked=True):
        lapsed = out.filter(task=task).update(state=Assignment.State.LAPSED)
        Task.objects.filter(pk=task.pk).update(held=F("held") - lapsed)
        count += lapsed
    return count


# --- what is there ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class QueueState:
    """Why there is nothing, or how much there is, for one rater; as data, for the page to put in words."""

    waiting: int  # that this rater could take now, up to COUNT_LIMIT
    reason: str  # "" | "quarantined" | "cap" | "unqualified" | "done" | "empty": why `waiting` is 0
    total: int  # tasks of the project for raters, up to COUNTED_TASKS, gold aside
    complete: int  # of these, those that have all their raters
    held: int  # open tasks whose last places are in other hands
    reviews: int  # that wait for a reviewer
    overlap: int  # raters a task
    answered_today: int
    daily_cap: int  # 0: none
    qualification_left: int  # gold tasks to go; 0 when qualified


def queue_state(
    *, project: Project, rater: User, kinds: Sequence[str] = FOR_RATERS, is_empty: bool = False
) -> QueueState:
    """Counts for one rater. The totals are counted only when nothing waits: they are the empty page's."""
    workbench = workbench_of(project)
    standing = Standing.objects.filter(project=project, user=rater).first()
    standing = standing or Standing(project=project, user=rater)
    reason = why_not(standing, workbench)
    left = must_qualify(standing, workbench)
    if reason or is_empty:
        waiting = 0
    elif left:
        waiting = _gold_for(project, rater, kinds)[:left].count()
    else:
        waiting = waiting_count(project, rater, kinds)
    total = complete = held = reviews = 0
    if not waiting:
        tasks = Task.objects.filter(project=project, kind__in=FOR_RATERS, gold__isnull=True)
        total = tasks[:COUNTED_TASKS].count()
        complete = tasks.filter(is_open=False)[:COUNTED_TASKS].count()
        held = tasks.filter(is_open=True, free=0, held__gt=0)[:COUNT_LIMIT].count()
        reviews = tasks.filter(outcome=Task.Outcome.DISPUTED)[:COUNT_LIMIT].count()
        reason = reason or ("unqualified" if left else "done" if total else "empty")
    return QueueState(
        waiting=waiting,
        reason=reason,
        total=total,
        complete=complete,
        held=held,
        reviews=reviews,
        overlap=workbench.overlap,
        answered_today=standing.answered_on(timezone.localdate()),
        daily_cap=workbench.daily_cap,
        qualification_left=left,
    )


def waiting_count(project: Project, rater: User, kinds: Sequence[str] = FOR_RATERS) -> int:
    """How many questions this rater could answer now, those that they hold included, up to a thousand."""
    # Where the backlog is long, as it mostly is, that is all to know. Unsorted, or the database would sort
    # all of them to count a thousand.
    backlog = Task.objects.in_backlog().filter(project=project, kind__in=kinds)
    waiting = backlog.order_by()[:COUNT_LIMIT].count()
    if waiting >= COUNT_LIMIT:
        return COUNT_LIMIT
    waiting += tasks_for(project, rater, kinds).order_by()[:COUNT_LIMIT].count()
    waiting += Assignment.objects.filter(
        project=project,
        rater=rater,
        state=Assignment.State.LEASED,
        lease_until__gt=timezone.now(),
        task__kind__in=kinds,
    ).count()
    return min(COUNT_LIMIT, waiting)


def tasks_for(project: Project, rater: User, kinds: Sequence[str]) -> QuerySet[Task]:
    """In line, with a free place, and neither held, answered nor skipped by this rater."""
    tasks = _untouched(Task.objects.in_line().filter(project=project), rater)
    if set(kinds) != set(Task.Kind.values):
        tasks = tasks.filter(kind__in=kinds)
    if Task.Kind.REVIEW in kinds:
        # Nobody reviews what they answered themselves.
        judged = Assignment.objects.filter(task=OuterRef("disputed"), rater=rater)
        tasks = tasks.filter(~Exists(judged.filter(state=Assignment.State.DONE)))
    return tasks.filter(Q(only_for=None) | Q(only_for=rater))


def _untouched(tasks: QuerySet[Task], rater: User) -> QuerySet[Task]:
    """Without those that the rater holds, answered or skipped; `mine` is one of theirs that lapsed."""
    own = FilteredRelation("assignments", condition=Q(assignments__rater=rater))
    tasks = tasks.annotate(own=own, mine=F("own__pk"), mine_is=F("own__state"))
    return tasks.filter(Q(mine_is=None) | Q(mine_is=Assignment.State.LAPSED))


def rows_of(assignment: Assignment) -> list[Preference | Rating]:
    """The feedback that the assignment's answer made and that still stands."""
    found: list[Preference | Rating] = []
    for name in ("preferences", "ratings", "corrections"):  # a flag answers no question
        found += list(getattr(assignment, name).usable())
    return found


def locked_task(task_id: UUID, project: Project) -> Task:
    """The project's task, locked until the transaction ends."""
    task = Task.objects.select_for_update(of=("self",)).select_related("disputed").get(pk=task_id)
    task.project = project
    return task


def why_not(standing: Standing, workbench: Workbench) -> str:
    """Why this rater gets no question at all; "" when they do."""
    if standing.status == Standing.Status.QUARANTINED:
        return "quarantined"
    if workbench.daily_cap and standing.answered_on(timezone.localdate()) >= workbench.daily_cap:
        return "cap"
    return ""


def _give_back(assignment: Assignment, reason: str) -> None:
    """Close a place that turned out to hold no question; its task is closed where nobody can answer it."""
    task = locked_task(assignment.task_id, assignment.project)
    held = Assignment.objects.filter(pk=assignment.pk, state=Assignment.State.LEASED)
    if held.update(state=Assignment.State.SKIPPED, skip_reason=reason):
        Task.objects.filter(pk=task.pk).update(held=F("held") - 1)
    if not _usable_answers(task):
        Task.objects.filter(pk=task.pk).update(is_open=False)


def _check_kinds(project: Project, rater: User, kinds: Sequence[str]) -> None:
    unknown = sorted(set(kinds) - set(Task.Kind.values))
    if unknown or not kinds:
        raise Invalid(f"kinds are {', '.join(Task.Kind.values)}.", param="kinds")
    if Task.Kind.REVIEW in kinds and not may(rater, project, Membership.Role.REVIEWER):
        raise NotFound("Reviews are for reviewers.")
