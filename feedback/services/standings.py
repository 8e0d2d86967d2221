"""A rater's standing: its row, and whether gold comes first."""

from __future__ import annotations

from feedback.models import Assignment, Standing, Workbench
from projects.models import Project, User


def standing_of(project: Project, rater: User) -> Standing:
    """Made when it is first asked for."""
    return Standing.objects.get_or_create(project=project, user=rater)[0]


def locked_standing(project: Project, rater: User) -> Standing:
    """The row, locked until the transaction ends: one claim or answer of a rater at a time."""
    mine = Standing.objects.select_for_update().filter(project=project, user=rater)
    standing = mine.first()
    if standing is None:
        standing_of(project, rater)
        standing = mine.get()
    standing.project, standing.user = project, rater
    return standing


def must_qualify(standing: Standing, workbench: Workbench) -> int:
    """How many gold tasks are still to answer before the first real one; 0 for one who may go on.

    Who failed goes on one by one, until enough of their latest are right.
    """
    if standing.status != Standing.Status.NEW or not workbench.qualification_tasks:
        return 0
    answered = Assignment.objects.filter(
        project_id=standing.project_id, rater_id=standing.user_id, is_correct__isnull=False
    )
    return max(1, workbench.qualification_tasks - answered.count())


def confirm_guidelines(*, project: Project, rater: User) -> Standing:
    """The rater has read the edition that is in force."""
    standing = standing_of(project, rater)
    standing.guidelines_read = project.guideline_version
    standing.save(update_fields=["guidelines_read"])
    return standing
