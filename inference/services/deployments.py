"""Deployments: what serves, changed by one row. Promotion and rollback."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from django.db import IntegrityError, transaction

from inference.models import Deployment, Version
from inference.services.reconciler import PromotionRefused, brought_up, is_held
from inference.services.versions import current
from projects.errors import Conflict, Invalid
from projects.models import Project
from projects.services import Actor, record_audit
from projects.services.outbox import record_event

__all__ = ["DeploymentConflict", "PromotionRefused", "current_deployment", "promote", "rollback"]


class DeploymentConflict(Conflict):
    """Somebody else's deployment came first; nothing of this one was done."""

    code = "deployment_conflict"
    message = "Another deployment was made at the same time. Look at what serves now, then try again."


class NoWayBack(PromotionRefused):
    code = "no_previous_version"


current_deployment = current


def promote(
    *,
    project: Project,
    version: Version,
    actor: Actor,
    reason: str,
    share: float = 1.0,
    detail: dict[str, Any] | None = None,
    after: int | None = None,
) -> Deployment:
    """Make a version the champion, or with `share` below 1 the canary for that share of conversations.

    Loads and probes it first; new requests go to it from the commit of the new row on, and answers that have
    begun end on what they began on. Raises PromotionRefused with the cause, Unavailable when no engine
    answers, DeploymentConflict when another deployment came in between, or when `after` is not the number of
    the one that serves. In each case nothing has changed.
    """
    if not 0 < share <= 1:
        raise Invalid(f"share must be above 0 and at most 1, got {share}.", param="share")
    deployment = _current_is(project, after)
    _check_promotable(project, version, deployment, share)
    with brought_up(version) as load_ms:
        return _insert(
            project,
            after=deployment,
            kind=Deployment.Kind.PROMOTE if share == 1 else Deployment.Kind.CANARY,
            champion=version if share == 1 else deployment.champion,
            canary=None if share == 1 else version,
            canary_share=0.0 if share == 1 else share,
            previous=deployment.champion if share == 1 else deployment.previous,
            actor=actor,
            reason=reason,
            detail={**(detail or {}), "load_ms": round(load_ms, 1)},
        )


def rollback(
    *,
    project: Project,
    actor: Actor,
    reason: str,
    detail: dict[str, Any] | None = None,
    after: int | None = None,
) -> Deployment:
    """Back to the champion before this one; with a canary out, the canary is withdrawn instead.

    The way back is still loaded, so this is one look at the engines and one row. When no engine holds it
    (all were restarted a moment ago) it is loaded first. Raises NoWayBack, PromotionRefused, Unavailable,
    DeploymentConflict.
    """
    deployment = _current_is(project, after)
    if deployment.canary is not None:
        target, previous = deployment.champion, deployment.previous
    elif deployment.previous is not None:
        target, previous = deployment.previous, deployment.champion
    else:
        raise NoWayBack(f"{project.slug} has served nothing before {deployment.champion.label}.")
    is_there = target.kind == Version.Kind.BASE or is_held(target)
    with nullcontext(0.0) if is_there else brought_up(target) as load_ms:
        return _insert(
            project,
            after=deployment,
            kind=Deployment.Kind.ROLLBACK,
            champion=target,
            canary=None,
            canary_share=0.0,
            previous=previous,
            actor=actor,
            reason=reason,
            detail={
                **(detail or {}),
                "load_ms": round(load_ms, 1),
                "from": (deployment.canary or deployment.champion).label,
            },
        )


def _current_is(project: Project, number: int | None) -> Deployment:
    """What serves now. Raises DeploymentConflict when that is not deployment `number` any more."""
    deployment = current(project)
    if number is not None and deployment.number != number:
        raise DeploymentConflict()
    return deployment


def _check_promotable(project: Project, version: Version, deployment: Deployment, share: float) -> None:
    if version.project_id != project.id:
        raise PromotionRefused("The version is of another project.")
    if version.kind == Version.Kind.REWARD:
        raise PromotionRefused(f"{version.label} is a reward model; it scores answers and writes none.")
    if version.id == deployment.champion_id and (share < 1 or deployment.canary_id is None):
        raise PromotionRefused(f"{version.label} is the champion already.", code="already_champion")


def _insert(
    project: Project,
    *,
    after: Deployment,
    kind: str,
    champion: Version,
    canary: Version | None,
    canary_share: float,
    previous: Version | None,
    actor: Actor,
    reason: str,
    detail: dict[str, Any],
) -> Deployment:
    """The swap: one row with the number after the one that we looked at."""
    try:
        with transaction.atomic():
            made = Deployment.objects.create(
                project=project,
                number=after.number + 1,
                kind=kind,
                champion=champion,
                canary=canary,
                canary_share=canary_share,
                previous=previous,
                user=actor.user,
                api_key=actor.api_key,
                reason=reason,
                detail=detail,
            )
            record_audit(
                project=project,
                actor=actor,
                action=f"deployment.{kind}",
                subject=f"deployment:{made.number}",
                detail={"champion": champion.label, "canary": str(canary or ""), "reason": reason},
            )
            is_back = kind == Deployment.Kind.ROLLBACK
            record_event(
                project=project,
                name="deployment.rolled_back" if is_back else "deployment.promoted",
                data={
                    "deployment": made.number,
                    "version": (canary or champion).label,
                    "share": canary_share or 1.0,
                    "champion": champion.label,
                    "reason": reason,
                },
            )
    except IntegrityError as error:
        raise DeploymentConflict() from error
    return made
