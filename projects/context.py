"""What every page knows: the projects of the person, and the one that the page is about."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.http import HttpRequest

from projects.access import projects_of, role_in
from projects.models import Project


def navigation(request: HttpRequest) -> dict[str, Any]:
    """`my_projects`, `project` and `role`, for the bar at the top. Lazy: error pages need no database."""
    user = getattr(request, "user", None)
    if user is None or request.path.startswith("/admin/"):
        return {}
    slug = request.resolver_match.kwargs.get("slug") if request.resolver_match else None

    # A template calls them wherever their names stand: once is enough.
    @cache
    def project() -> Project | None:
        return projects_of(user).filter(slug=slug).first() if slug else None

    @cache
    def role() -> str | None:
        found = project()
        return role_in(user, found) if found else None

    return {"my_projects": lambda: projects_of(user), "nav_project": project, "nav_role": role}
