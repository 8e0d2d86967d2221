"""Who may do what, decided here alone. Unknown and forbidden look alike: both are 404."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet
from django.http import HttpRequest

from projects.errors import NotFound
from projects.models import Membership, Project, User

_RANK = {Membership.Role.RATER: 1, Membership.Role.REVIEWER: 2, Membership.Role.MANAGER: 3}


def projects_of(user: User | AnonymousUser) -> QuerySet[Project]:
    """The projects that a person sees."""
    if not isinstance(user, User) or not user.is_active:
        return Project.objects.none()
    if user.is_operator:
        return Project.objects.all()
    return Project.objects.filter(memberships__user=user)


def role_in(user: User | AnonymousUser, project: Project) -> str | None:
    """The person's role; operators are managers everywhere."""
    if not isinstance(user, User) or not user.is_active:
        return None
    if user.is_operator:
        return Membership.Role.MANAGER
    return Membership.objects.filter(user=user, project=project).values_list("role", flat=True).first()


def may(user: User | AnonymousUser, project: Project, role: str) -> bool:
    actual = role_in(user, project)
    return actual is not None and _RANK[Membership.Role(actual)] >= _RANK[Membership.Role(role)]


def project_for(request: HttpRequest, slug: str, role: str = Membership.Role.RATER) -> Project:
    """The project at `slug`, when the person has at least `role` there. Raises NotFound."""
    project = Project.objects.filter(slug=slug).first()
    if project is None or not may(request.user, project, role):
        raise NotFound("There is no such project, or you are no member of it.")
    return project
