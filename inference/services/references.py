"""What a body or a command calls a version: `slug@v7`, `v7` or 7."""

from __future__ import annotations

import re

from inference.models import Version
from projects.errors import NotFound
from projects.models import Project

_NAME = re.compile(r"(?:(?P<slug>[-a-zA-Z0-9_]+)@)?v?(?P<number>[0-9]{1,9})", re.ASCII)


def find_version(project: Project, name: str | int, *, param: str = "version") -> Version:
    """Raises NotFound for what is no version of this project."""
    match = _NAME.fullmatch(str(name))
    if match and match["slug"] in (None, project.slug):
        version = Version.objects.filter(project=project, number=int(match["number"])).first()
        if version is not None:
            version.project = project
            return version
    raise NotFound(
        f"There is no version {str(name)[:80]} in {project.slug}. Write {project.slug}@v7, v7 or 7.",
        param=param,
        code="version_not_found",
    )
