"""What serves changes here, and only on evidence: a verdict, or an operator's reason against it."""

from __future__ import annotations

from typing import Any

from inference.models import Deployment, Version
from inference.services import deployments
from projects.errors import Conflict, Invalid
from projects.models import Project
from projects.services import Actor, record_audit
from training.models import Evaluation


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
) -> Deployment:
    """Make a version the champion, or the canary for a share of conversations.

    Needs an evaluation against the current champion that was decided `promote`; or `override` and a reason,
    which are audited. Raises VerdictMissing, Invalid (no reason), and what inference's promote raises:
    PromotionRefused, DeploymentConflict, Unavailable. The champion is then as it was.
    """
    if not reason.strip():
        raise Invalid("Give the reason: it stands in the history of what served.", param="reason")
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
    deployment = deployments.promote(
        project=project, version=version, actor=actor, reason=reason, share=share, detail=detail
    )
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
    if not reason.strip():
        raise Invalid("Give the reason: it stands in the history of what served.", param="reason")
    return deployments.rollback(project=project, actor=actor, reason=reason)


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
