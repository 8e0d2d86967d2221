"""Who may let a version serve: whom the policy names. Going back needs nobody's leave, and both a reason."""

from __future__ import annotations

from projects.access import may
from projects.errors import Forbidden, Invalid
from projects.models import Membership, Project
from projects.services import Actor
from training.models import Policy
from training.services.policy_changes import policy_of


class ApprovalNeeded(Forbidden):
    code = "approval_needed"


def may_approve(project: Project, actor: Actor) -> bool:
    """A person by role; a key that may manage stands for a manager; Ratchet and the shell always may."""
    policy = policy_of(project)
    if actor.user is None:
        return actor.api_key is None or policy.approval != Policy.Approval.OPERATOR
    if policy.approval == Policy.Approval.OPERATOR:
        return actor.user.is_operator
    is_open = policy.approval == Policy.Approval.REVIEWER
    return may(actor.user, project, Membership.Role.REVIEWER if is_open else Membership.Role.MANAGER)


def check_approver(project: Project, actor: Actor) -> None:
    """Raises ApprovalNeeded."""
    if not may_approve(project, actor):
        named = policy_of(project).get_approval_display()
        raise ApprovalNeeded(f"{project.slug}'s policy says that {named}: ask one.")


def check_reason(reason: str) -> None:
    """Raises Invalid for none."""
    if not reason.strip():
        raise Invalid("Give the reason: it stands in the history of what served.", param="reason")
