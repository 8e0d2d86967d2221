"""Raters trusted more and less: dated events, and what they meant at a moment.

Each change appends a RaterEvent and moves the rater's standing. A dataset reads the events as of its cut-off,
so that an older one stays what it was. Quarantine takes all of a rater's labels out of datasets with a later
cut-off; restoring brings them back.
"""

from __future__ import annotations

import math
from datetime import datetime

from django.db import transaction

from feedback.models import Assignment, RaterEvent, Standing
from feedback.services.judge import Judge
from feedback.services.set_aside import weigh_flags_of
from feedback.services.standings import locked_standing
from feedback.services.workbench import workbench_of
from projects.errors import Conflict, Invalid
from projects.models import Project, User
from projects.services import SYSTEM, Actor, record_audit
from projects.services.outbox import record_event

_LEADS_TO: dict[str, str] = {
    RaterEvent.Kind.QUALIFIED: Standing.Status.QUALIFIED,
    RaterEvent.Kind.WATCHED: Standing.Status.WATCHED,
    RaterEvent.Kind.QUARANTINED: Standing.Status.QUARANTINED,
    RaterEvent.Kind.RESTORED: Standing.Status.QUALIFIED,
    RaterEvent.Kind.FAILED: Standing.Status.NEW,
}


def qualify_rater(*, project: Project, rater: User, actor: Actor, reason: str) -> Standing:
    return _change(project, rater, actor, RaterEvent.Kind.QUALIFIED, reason)


def watch_rater(*, project: Project, rater: User, actor: Actor, reason: str) -> Standing:
    """Their labels still count; somebody should look at them."""
    return _change(project, rater, actor, RaterEvent.Kind.WATCHED, reason)


def quarantine_rater(*, project: Project, rater: User, actor: Actor, reason: str) -> Standing:
    """No more questions, and none of their labels in datasets from now on, until they are restored."""
    return _change(project, rater, actor, RaterEvent.Kind.QUARANTINED, reason)


def restore_rater(*, project: Project, rater: User, actor: Actor, reason: str) -> Standing:
    """Undo a quarantine or a watch."""
    return _change(project, rater, actor, RaterEvent.Kind.RESTORED, reason)


@transaction.atomic
def set_weight(*, project: Project, rater: User, weight: float, actor: Actor, reason: str) -> Standing:
    """How much a label of this rater counts, 0 to 1. Raises Invalid."""
    if isinstance(weight, bool) or not math.isfinite(weight) or not 0 <= weight <= 1:
        raise Invalid(f"A weight is 0 to 1, got {weight}.", param="weight")
    standing = locked_standing(project, rater)
    _append(standing, actor, RaterEvent.Kind.WEIGHT, reason, weight=weight)
    standing.weight = weight
    standing.save(update_fields=["weight"])
    return standing


def weigh_qualification(standing: Standing) -> None:
    """After a gold answer of a rater who is not qualified yet: enough of their latest are right, or not."""
    workbench = workbench_of(standing.project)
    wanted = workbench.qualification_tasks
    if standing.status != Standing.Status.NEW or not wanted:
        return
    gold = Assignment.objects.filter(
        project=standing.project, rater=standing.user, is_correct__isnull=False
    ).order_by("-closed")
    met = [bool(is_correct) for is_correct in gold.values_list("is_correct", flat=True)[:wanted]]
    if len(met) < wanted:
        return
    is_enough = sum(met) >= workbench.qualification_accuracy * wanted
    _change(
        standing.project,
        standing.user,
        SYSTEM,
        RaterEvent.Kind.QUALIFIED if is_enough else RaterEvent.Kind.FAILED,
        f"{sum(met)} of the last {wanted} gold answers were right;"
        f" {workbench.qualification_accuracy:.0%} are asked for.",
    )


def excluded_raters(project: Project, cutoff: datetime) -> dict[str, str]:
    """Judge (`user:<id>`) -> why, of those whose labels a dataset with this cut-off leaves out."""
    latest: dict[int, RaterEvent] = {}
    events = RaterEvent.objects.as_of(cutoff).filter(project=project).exclude(kind=RaterEvent.Kind.WEIGHT)
    for event in events.order_by("created", "id").select_related("rater"):
        latest[event.rater_id] = event
    return {
        Judge(user=event.rater).key: event.reason
        for event in latest.values()
        if event.kind == RaterEvent.Kind.QUARANTINED
    }


def rater_weights(project: Project, cutoff: datetime) -> dict[str, float]:
    """Judge (`user:<id>`) -> weight as of the cut-off; who is not named weighs 1."""
    events = RaterEvent.objects.as_of(cutoff).filter(project=project, kind=RaterEvent.Kind.WEIGHT)
    return {
        Judge(user=event.rater).key: event.weight
        for event in events.order_by("created", "id").select_related("rater")
        if event.weight is not None
    }


@transaction.atomic
def _change(project: Project, rater: User, actor: Actor, kind: str, reason: str) -> Standing:
    """Append the event and move the standing. Raises Conflict when the rater stands there already."""
    standing = locked_standing(project, rater)
    status = _LEADS_TO[kind]
    if standing.status == status and kind != RaterEvent.Kind.FAILED:
        raise Conflict(f"{rater.username} is {standing.get_status_display()} already.", code="already_there")
    _append(standing, actor, kind, reason)
    standing.status, standing.reason = status, reason[:300]
    standing.save(update_fields=["status", "reason"])
    if kind in (RaterEvent.Kind.QUARANTINED, RaterEvent.Kind.RESTORED):
        weigh_flags_of(project=project, rater=rater)
    if kind == RaterEvent.Kind.QUARANTINED:
        record_event(
            project=project, name="rater.quarantined", data={"rater": rater.pk, "reason": standing.reason}
        )
    return standing


def _append(
    standing: Standing, actor: Actor, kind: str, reason: str, *, weight: float | None = None
) -> RaterEvent:
    reason = reason.strip()
    if not reason:
        raise Invalid("Say why, in words.", param="reason")
    event = RaterEvent.objects.create(
        project=standing.project,
        rater=standing.user,
        kind=kind,
        weight=weight,
        reason=reason[:300],
        user=actor.user,
    )
    record_audit(
        project=standing.project,
        actor=actor,
        action=f"rater.{kind}",
        subject=f"user:{standing.user.username}",
        detail={"reason": event.reason, **({"weight": weight} if weight is not None else {})},
    )
    return event
