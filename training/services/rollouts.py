"""A version's way from a canary to all requests: up step by step while nothing speaks against it, or back.

    1 % -> 5 % -> 25 % -> all -> watched for a day -> done

Beat ticks (`tick_rollouts`). A tick looks at what both versions did (services/canary.py) and does at most one
thing: back, when a guard is broken or people find it worse; the next share, when this one has seen enough;
nothing, and says what it waits for. What serves is the deployments': each that is made here names its
rollout, and no other may have come in between, so that two beats, or a worker that dies on the way, do
nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError
from django.db.models import Q
from django.utils import timezone

from inference.models import Deployment, Version
from inference.services import deployments
from projects.errors import Conflict, Problem
from projects.models import Project
from projects.services import SYSTEM, Actor, record_audit
from training.models import Rollout
from training.services.approval import check_approver, check_reason
from training.services.arms import Arms, read_arms
from training.services.canary import Findings, find_harm
from training.services.numbers import create_numbered
from training.services.policy_changes import policy_of

logger = logging.getLogger(__name__)

SHARES = (0.01, 0.05, 0.25, 1.0)
AT_ONCE = (1.0,)
LEASE = timedelta(seconds=120)  # a load on slow engines
BEFORE = timedelta(days=7)  # how far back the champion is looked at once it serves no more


class RolloutUnderWay(Conflict):
    """A project has one version on its way at a time."""

    code = "rollout_under_way"


class RolloutOver(Conflict):
    code = "rollout_over"


def start_rollout(
    *,
    project: Project,
    version: Version,
    actor: Actor,
    reason: str,
    shares: Sequence[float] = SHARES,
    detail: dict[str, Any] | None = None,
) -> tuple[Rollout, Deployment]:
    """The first share of a version's way, and the watch over it.

    Raises RolloutUnderWay, and what inference's promote raises; then nothing has changed.
    """
    champion = deployments.current_deployment(project).champion
    close_left_over(project)
    try:
        rollout = create_numbered(
            Rollout,
            project=project,
            candidate=version,
            champion=champion,
            shares=list(shares),
            plan=_plan(project),
            lease_until=timezone.now() + LEASE,  # no tick before it serves
            created_by=actor.user,
            message="Being loaded.",
        )
    except IntegrityError as error:
        raise RolloutUnderWay(
            f"{project.slug} has a version on its way already. Finish it or roll it back first."
        ) from error
    try:
        deployment = _deploy(rollout, 0, actor=actor, reason=reason, detail=detail)
    except BaseException:
        rollout.delete()
        raise
    _adopt(rollout, deployment)
    _update(rollout, lease_until=None)
    return rollout, deployment


def pause_rollout(*, rollout: Rollout, actor: Actor, reason: str = "") -> Rollout:
    """Its share stays as it is until it is resumed; its guards go on."""
    return _turn(rollout, Rollout.Status.STEPPING, Rollout.Status.PAUSED, actor, reason)


def resume_rollout(*, rollout: Rollout, actor: Actor, reason: str = "") -> Rollout:
    return _turn(rollout, Rollout.Status.PAUSED, Rollout.Status.STEPPING, actor, reason)


def finish_rollout(*, rollout: Rollout, actor: Actor, reason: str) -> Rollout:
    """By hand: all requests now; one that serves all is not watched any longer. Raises ApprovalNeeded."""
    check_reason(reason)
    check_approver(rollout.project, actor)
    if rollout.status == Rollout.Status.WATCHING:
        _end(rollout, Rollout.Status.DONE, f"The watch was ended by {actor.label}: {reason}")
        _audit(rollout, actor, "finished", reason)
        return rollout
    _refuse_if_over(rollout)
    last = len(rollout.shares) - 1
    deployment = _deploy(rollout, last, actor=actor, reason=reason, after=_own_deployment(rollout).number)
    _adopt(rollout, deployment)
    _audit(rollout, actor, "finished", reason)
    return rollout


def roll_back_rollout(*, rollout: Rollout, actor: Actor, reason: str) -> Deployment:
    """By hand: what served before its way began."""
    check_reason(reason)
    _refuse_if_over(rollout)
    return _go_back(rollout, _own_deployment(rollout), actor=actor, reason=reason)


def tick_rollouts(*, now: datetime | None = None) -> int:
    """One look at each version that is on its way. Returns how many there were."""
    ids = list(Rollout.objects.filter(status__in=Rollout.ACTIVE).values_list("id", flat=True))
    for id_ in ids:
        try:
            tick_rollout(id_, now=now)
        except Problem as error:
            # An engine that is away: said on the page, and tried again with the next tick.
            logger.warning("rollout %s: %s", id_, error.message)
            Rollout.objects.filter(pk=id_, status__in=Rollout.ACTIVE).update(message=error.message)
    return len(ids)


def tick_rollout(rollout_id: UUID, *, now: datetime | None = None) -> None:
    """Look, and do at most one thing. Two at once are harmless: one holds the lease."""
    now = now or timezone.now()
    rollout = _claim(rollout_id)
    if rollout is None:
        return
    try:
        current = deployments.current_deployment(rollout.project)
        if current.detail.get("rollout") != rollout.number:
            _end(rollout, Rollout.Status.ENDED, _taken_over(current))
            return
        if current.kind == Deployment.Kind.ROLLBACK:  # its worker died before it wrote that here
            _end(rollout, Rollout.Status.ROLLED_BACK, current.reason)
            return
        _adopt(rollout, current)
        arms, before = _look(rollout)
        findings = find_harm(arms, bars=rollout.findings.get("bars"), before=before)
        seen = _count(rollout, arms)
        _update(rollout, findings={**findings.as_dict(), **seen, "looked": now.isoformat()})
        if findings.reason:
            _go_back(rollout, current, actor=SYSTEM, reason=findings.reason)
        elif rollout.status == Rollout.Status.WATCHING:
            _watch_on(rollout, findings, now)
        else:
            _step_on(rollout, current, seen, now)
    finally:
        Rollout.objects.filter(pk=rollout.pk).update(lease_until=None)


def active_rollout(project: Project) -> Rollout | None:
    return (
        Rollout.objects.filter(project=project, status__in=Rollout.ACTIVE)
        .select_related("project", "candidate__project", "champion__project")
        .first()
    )


def close_left_over(project: Project) -> None:
    """End a rollout whose way another deployment has ended, or whose watch the next version takes over."""
    rollout = active_rollout(project)
    if rollout is None or (rollout.lease_until and rollout.lease_until > timezone.now()):
        return
    current = deployments.current_deployment(project)
    if current.detail.get("rollout") != rollout.number:
        _end(rollout, Rollout.Status.ENDED, _taken_over(current))
    elif rollout.status == Rollout.Status.WATCHING:
        _end(rollout, Rollout.Status.DONE, "The next version came before the watch was over.")


# --- one step -----------------------------------------------------------------------------------------
def _step_on(rollout: Rollout, current: Deployment, seen: dict[str, int], now: datetime) -> None:
    waits = _waits_for(rollout, seen, now)
    at = f"At {_share(rollout.share)}"
    if rollout.status == Rollout.Status.PAUSED:
        _update(rollout, message=f"{at}, paused. Its guards hold and are looked at on.")
    elif waits:
        _update(rollout, message=f"{at}. Nothing speaks against it. It waits for {_listed(waits)}.")
    else:
        step = rollout.step + 1
        reason = (
            f"{at} its guards held for {_minutes(now - rollout.step_started)} minutes, over "
            f"{seen['step_answers']} answers and {seen['step_judgements']} judgements."
        )
        deployment = _deploy(rollout, step, actor=SYSTEM, reason=reason, after=current.number)
        _adopt(rollout, deployment)


def _watch_on(rollout: Rollout, findings: Findings, now: datetime) -> None:
    hours = rollout.plan["watch_hours"]
    left = rollout.step_started + timedelta(hours=hours) - now
    if left <= timedelta(0):
        _end(rollout, Rollout.Status.DONE, f"It served all for {hours} hours, and nothing spoke against it.")
        return
    open_ = all(line.state == "open" for line in findings.lines) and not findings.people["n"]
    said = "There is nothing to hold against it or for it yet" if open_ else "Nothing speaks against it"
    _update(rollout, message=f"It serves all. {said}; it is watched for {_hours(left)} more.")


def _waits_for(rollout: Rollout, seen: dict[str, int], now: datetime) -> list[str]:
    """What this share has not seen yet, in words."""
    plan = rollout.plan
    minutes = plan["minutes"] - _minutes(now - rollout.step_started)
    waits = [f"{minutes} more minutes"] if minutes > 0 else []
    for name, one in (("answers", "answers"), ("judgements", "judgements of people")):
        missing = plan[name] - seen[f"step_{name}"]
        if missing > 0:
            waits.append(f"{missing} more {one} ({seen[f'step_{name}']} of {plan[name]})")
    return waits


def _look(rollout: Rollout) -> tuple[Arms, Arms | None]:
    """What both did; once all requests go to the candidate, what it did since and the champion before."""
    sides = {"candidate": rollout.candidate, "champion": rollout.champion}
    if rollout.share < 1:
        return read_arms(**sides, since=rollout.created), None
    since = rollout.step_started
    return read_arms(**sides, since=since), read_arms(**sides, since=since - BEFORE)


def _count(rollout: Rollout, arms: Arms) -> dict[str, int]:
    """What there is of the candidate since this share began."""
    since = rollout.step_started
    return {
        "step_answers": sum(a.is_candidate and a.created >= since for a in arms.answers),
        "step_judgements": sum(t.is_candidate and t.created >= since for t in arms.thumbs),
    }


# --- deployments and rows ------------------------------------------------------------------------------
def _deploy(
    rollout: Rollout,
    step: int,
    *,
    actor: Actor,
    reason: str,
    detail: dict[str, Any] | None = None,
    after: int | None = None,
) -> Deployment:
    return deployments.promote(
        project=rollout.project,
        version=rollout.candidate,
        actor=actor,
        reason=reason,
        share=rollout.shares[step],
        detail={**(detail or {}), "rollout": rollout.number, "step": step},
        after=after,
    )


def _go_back(rollout: Rollout, current: Deployment, *, actor: Actor, reason: str) -> Deployment:
    deployment = deployments.rollback(
        project=rollout.project,
        actor=actor,
        reason=reason,
        detail={"rollout": rollout.number, "findings": rollout.findings.get("lines", [])},
        after=current.number,
    )
    _end(rollout, Rollout.Status.ROLLED_BACK, reason)
    return deployment


def _adopt(rollout: Rollout, deployment: Deployment) -> None:
    """Write down what the deployment says, when this row does not know it yet."""
    step = int(deployment.detail.get("step", rollout.step))
    serves_all = deployment.champion_id == rollout.candidate_id
    values: dict[str, Any] = {}
    if step != rollout.step or rollout.step_started < deployment.created:
        values |= {"step": step, "step_started": deployment.created}
    if serves_all and rollout.status != Rollout.Status.WATCHING:
        values |= {"status": Rollout.Status.WATCHING, "findings": {}}
    if values:
        share = _share(rollout.shares[step])
        values["message"] = "It serves all." if serves_all else f"At {share} of conversations."
        _update(rollout, **values)
    if serves_all and not rollout.plan["watch_hours"]:
        _end(rollout, Rollout.Status.DONE, "It serves all. The policy asks for no watch.")


def _own_deployment(rollout: Rollout) -> Deployment:
    """What serves, when that is this rollout's. Raises RolloutOver."""
    current = deployments.current_deployment(rollout.project)
    if current.detail.get("rollout") != rollout.number:
        raise RolloutOver(_taken_over(current))
    return current


def _claim(rollout_id: UUID) -> Rollout | None:
    now = timezone.now()
    rows = Rollout.objects.filter(pk=rollout_id, status__in=Rollout.ACTIVE)
    if not rows.filter(Q(lease_until=None) | Q(lease_until__lt=now)).update(lease_until=now + LEASE):
        return None
    return Rollout.objects.select_related("project", "candidate__project", "champion__project").get(
        pk=rollout_id
    )


def _turn(rollout: Rollout, old: str, new: str, actor: Actor, reason: str) -> Rollout:
    if not Rollout.objects.filter(pk=rollout.pk, status=old).update(status=new):
        rollout.refresh_from_db()
        raise RolloutOver(f"Rollout {rollout.number} is {rollout.get_status_display()}.")
    rollout.status = new
    _update(rollout, message=f"{'Paused' if new == Rollout.Status.PAUSED else 'Resumed'} by {actor.label}.")
    _audit(rollout, actor, str(new), reason)
    return rollout


def _end(rollout: Rollout, status: str, message: str) -> None:
    _update(rollout, status=status, message=message, ended=timezone.now())


def _update(rollout: Rollout, **values: Any) -> None:
    """Write to a rollout that is on its way; what somebody else has ended meanwhile stays as it is."""
    Rollout.objects.filter(pk=rollout.pk, status__in=Rollout.ACTIVE).update(**values)
    for name, value in values.items():
        setattr(rollout, name, value)


def _audit(rollout: Rollout, actor: Actor, what: str, reason: str) -> None:
    record_audit(
        project=rollout.project,
        actor=actor,
        action=f"rollout.{what}",
        subject=f"rollout:{rollout.number}",
        detail={"reason": reason},
    )


def _plan(project: Project) -> dict[str, int]:
    policy = policy_of(project)
    return {
        "minutes": policy.canary_minutes,
        "answers": policy.canary_answers,
        "judgements": policy.canary_judgements,
        "watch_hours": policy.watch_hours,
    }


def _refuse_if_over(rollout: Rollout) -> None:
    if not rollout.is_active:
        raise RolloutOver(f"Rollout {rollout.number} is over: {rollout.message}")


# --- words ----------------------------------------------------------------------------------------------
def _taken_over(current: Deployment) -> str:
    by = current.user or current.api_key or "Ratchet"
    return f"Deployment {current.number} by {by} took over: {current.reason}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _share(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _minutes(duration: timedelta) -> int:
    return max(0, int(duration.total_seconds() // 60))


def _hours(duration: timedelta) -> str:
    minutes = max(1, _minutes(duration))
    return f"{minutes // 60} hours" if minutes >= 120 else f"{minutes} minutes"
