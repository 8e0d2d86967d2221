"""Answers that flags set aside, and that somebody releases.

A flag of a reviewer, a manager or a key with the scope `manage` sets an answer aside by itself; otherwise as
many different judges as the workbench says (`flag_raters`). It is asked about no more, judged no more, and
left out of datasets whose cut-off comes later. It comes back when the flags are taken back, or when somebody
releases it: then the flags of before count no more.

Whoever flags or takes a flag back locks the answer before its flags are counted, so that of two flags at the
same moment the second one sees the first. Locks are taken in one order: answers by their ids, then tasks. A
flag that went with its person leaves the answer as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Max, Q
from django.utils import timezone

from feedback.errors import NotSetAside
from feedback.models import Flag, SetAside, Standing, Task, Workbench
from feedback.services.workbench import workbench_of
from inference.models import Completion
from projects.access import may
from projects.errors import NotFound
from projects.models import ApiKey, Membership, Project, User
from projects.services import SYSTEM, Actor, record_audit

BATCH = 1_000


@transaction.atomic
def weigh_flags(*, project: Project, completions: Iterable[UUID]) -> None:
    """Set aside what flags now say enough about, and release what they no longer do."""
    ids = sorted(set(completions))
    for start in range(0, len(ids), BATCH):
        _weigh(project, workbench_of(project), ids[start : start + BATCH])


def weigh_flags_of(*, project: Project, rater: User) -> None:
    """All answers that this rater flagged: how far the rater is trusted has changed."""
    flags = Flag.objects.usable().filter(project=project, rater=rater)
    weigh_flags(project=project, completions=flags.order_by().values_list("completion_id", flat=True))


@transaction.atomic
def release_answer(*, project: Project, completion_id: UUID, actor: Actor) -> SetAside:
    """Back into use. Flags that are there by now do not set it aside again; new ones may.

    Raises NotFound, NotSetAside.
    """
    if not _locked(project, [completion_id]):
        raise NotFound("There is no such answer in this project.", param="completion_id")
    row = SetAside.objects.standing().filter(completion=completion_id).first()
    if row is None:
        raise NotSetAside(param="completion_id")
    return _release(row, actor, is_overruled=True)


def set_aside_as_of(project: Project, cutoff: datetime) -> dict[UUID, bool]:
    """For each answer that was ever set aside: whether it was at the cut-off."""
    rows = SetAside.objects.filter(project=project).order_by()
    found = dict.fromkeys(rows.values_list("completion_id", flat=True), False)
    return found | dict.fromkeys(rows.as_of(cutoff).values_list("completion_id", flat=True), True)


def _weigh(project: Project, workbench: Workbench, ids: list[UUID]) -> None:
    answers = _locked(project, ids)
    standing = {row.completion_id: row for row in SetAside.objects.standing().filter(completion__in=ids)}
    counted = _counted_flags(project, ids)
    for answer in answers:
        row, flags = standing.get(answer.pk), counted[answer.pk]
        is_enough = _is_enough(project, workbench, flags)
        if row is None and is_enough and not answer.quarantined:
            _set_aside(answer, flags)
        elif row is not None and not is_enough:
            _release(row, SYSTEM, is_overruled=False)


def _counted_flags(project: Project, ids: list[UUID]) -> dict[UUID, list[Flag]]:
    """Those that stand and came after the last release, without those of raters in quarantine."""
    overruled: dict[UUID, datetime] = dict(
        SetAside.objects.filter(completion__in=ids, is_overruled=True)
        .order_by()
        .values_list("completion_id")
        .annotate(Max("released"))
    )
    quarantined = Standing.objects.filter(project=project, status=Standing.Status.QUARANTINED)
    distrusted = set(quarantined.values_list("user_id", flat=True))
    found: dict[UUID, list[Flag]] = defaultdict(list)
    for flag in Flag.objects.usable().filter(completion__in=ids).select_related("rater", "api_key"):
        released = overruled.get(flag.completion_id)
        if flag.rater_id not in distrusted and (released is None or flag.created > released):
            found[flag.completion_id].append(flag)
    return found


def _is_enough(project: Project, workbench: Workbench, flags: list[Flag]) -> bool:
    if any(_speaks_alone(project, flag) for flag in flags):
        return True
    return 0 < workbench.flag_raters <= len({flag.judge for flag in flags})


def _speaks_alone(project: Project, flag: Flag) -> bool:
    """A reviewer's or manager's, and that of a program which may manage, in its own name."""
    if flag.rater is not None:
        return may(flag.rater, project, Membership.Role.REVIEWER)
    return flag.api_key is not None and not flag.subject and ApiKey.Scope.MANAGE in flag.api_key.scopes


def _locked(project: Project, ids: list[UUID]) -> list[Completion]:
    """In one order, so that two of us never wait for each other. Who only points to them need not wait."""
    rows = Completion.objects.select_for_update(no_key=True).filter(project=project, pk__in=ids)
    return list(rows.order_by("pk"))


def _set_aside(answer: Completion, flags: list[Flag]) -> SetAside:
    beside = SetAside.objects.standing().filter(completion__prompt=answer.prompt_id)
    closed_before = [pk for row in beside for pk in row.closed_tasks]  # for another of their answers
    tasks = Task.objects.filter(Q(is_open=True) | Q(pk__in=closed_before), completions=answer).order_by("pk")
    closed = list(tasks.select_for_update(of=("self",), no_key=True).values_list("pk", flat=True))
    Task.objects.filter(pk__in=closed).update(is_open=False)
    Completion.objects.filter(pk=answer.pk).update(quarantined=True)
    row = SetAside.objects.create(
        project=answer.project, completion=answer, closed_tasks=[str(pk) for pk in closed]
    )
    reasons = sorted({flag.reason for flag in flags})
    _audit(row, SYSTEM, "answer.set_aside", reasons=reasons, judges=len({flag.judge for flag in flags}))
    return row


def _release(row: SetAside, actor: Actor, *, is_overruled: bool) -> SetAside:
    row.released, row.is_overruled, row.released_by = timezone.now(), is_overruled, actor.user
    row.save(update_fields=["released", "is_overruled", "released_by"])
    # A tombstone stays out of use.
    Completion.objects.filter(pk=row.completion_id, prompt__erased=None).update(quarantined=False)
    closed = Task.objects.filter(pk__in=row.closed_tasks, done__lt=F("overlap"))
    closed.exclude(completions__quarantined=True).update(is_open=True)
    _audit(row, actor, "answer.released")
    return row


def _audit(row: SetAside, actor: Actor, action: str, **detail: Any) -> None:
    subject = f"completion:{row.completion_id}"
    record_audit(project=row.project, actor=actor, action=action, subject=subject, detail=detail)
