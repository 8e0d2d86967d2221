"""What serves changes here, and only on evidence: a verdict, or an operator's reason against it."""

from __future__ import annotations

from typing import Any

from inference.models import Deployment, Version
from inference.services import deployments
from projects.errors import Conflict, Invalid
from projects.models import Project
from projects.services import Actor, record_audit
from training.models import Evaluation, Rollout
from training.services import rollouts
from training.services.approval import check_approver, check_reason


class VerdictMissing(Conflict):
    """No evaluation says that the version is better than what serves."""

    code = "verdict_missing"


def promote_version(
    *,
    project: Project,
    version: Version,
    actor: Actor,
    reason: str,
    share: float = 1.0,
    override: bool = False,
    canary: bool = False,
) -> Deployment:
    """Make a version the champion, or the canary for a share of conversations, which then stays as it is.

    With `canary` it begins at 1 % and goes up by itself (services/rollouts.py). A version that serves all on
    a verdict is watched as a canary is; one that an operator promotes against it is not.

    Needs an evaluation against the current champion that was decided `promote`; or `override` and a reason,
    which are audited. Raises VerdictMissing, ApprovalNeeded, Invalid (no reason, a share for a canary),
    RolloutUnderWay, and what inference's promote raises: PromotionRefused, DeploymentConflict, Unavailable.
    The champion is then as it was.
    """
    if canary and share != 1.0:
        raise Invalid("A canary's shares are its own: leave share out.", param="share")
    check_reason(reason)
    check_approver(project, actor)
    champion = deployments.current_deployment(project).champion
    evaluation = proof(version, champion)
    if evaluation is None and not override:
        raise VerdictMissing(_what_is_missing(version, champion))
    detail: dict[str, Any] = {"override": override and evaluation is None}
    if evaluation is not None:
        detail["evaluation"] = evaluation.number
        detail["numbers"] = {
            name: evaluation.numbers.get(name) for name in ("n", "win_rate", "ci_low", "ci_high")
        }
    deployment = _deploy(project, version, actor, reason, share, canary, detail)
    if detail["override"]:
        record_audit(
            project=project,
            actor=actor,
            action="deployment.override",
            subject=f"deployment:{deployment.number}",
            detail={"version": version.label, "reason": reason, "verdict": _last_verdict(version, champion)},
        )
    return deployment


def rollback_version(*, project: Project, actor: Actor, reason: str) -> Deployment:
    """Back to the champion before. Needs no verdict, only a reason."""
    check_reason(reason)
    deployment = deployments.rollback(project=project, actor=actor, reason=reason)
    rollouts.close_left_over(project)
    return deployment


def _deploy(
    project: Project,
    version: Version,
    actor: Actor,
    reason: str,
    share: float,
    canary: bool,
    detail: dict[str, Any],
) -> Deployment:
    """By a rollout where there is something to watch: a canary, or a version that serves all on a verdict."""
    said: dict[str, Any] = {"project": project, "version": version, "actor": actor, "reason": reason}
    if canary:
        return rollouts.start_rollout(**said, detail=detail)[1]
    under_way = rollouts.active_rollout(project)
    is_stepping = under_way is not None and under_way.status != Rollout.Status.WATCHING
    if share == 1 and not is_stepping and not detail["override"]:
        return rollouts.start_rollout(**said, shares=rollouts.AT_ONCE, detail=detail)[1]
    deployment = deployments.promote(**said, share=share, detail=detail)
    rollouts.close_left_over(project)
    return deployment


def proof(version: Version, champion: Version) -> Evaluation | None:
    """The latest decided evaluation of the two, when its verdict is to promote."""
    evaluation = _latest(version, champion)
    if evaluation is not None and evaluation.verdict == Evaluation.Verdict.PROMOTE:
        return evaluation
    return None


def _latest(version: Version, champion: Version) -> Evaluation | None:
    return Evaluation.objects.filter(
        candidate=version, champion=champion, status=Evaluation.Status.DECIDED
    ).first()


def _last_verdict(version: Version, champion: Version) -> str:
    evaluation = _latest(version, champion)
    return evaluation.verdict if evaluation is not None else "none"


def _what_is_missing(version: Version, champion: Version) -> str:
    against = f"{version.label} against {champion.label}, which serves now"
    evaluation = _latest(version, champion)
    if evaluation is None:
        said = f"No evaluation of {against}, was decided."
    else:
        said = f"Evaluation {evaluation.number} of {against}, says {evaluation.verdict}: {evaluation.reason}"
    return f"{said} Evaluate it, or promote it with override and a reason."
