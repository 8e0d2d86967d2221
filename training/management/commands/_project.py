"""What the commands of learning share: the project by its slug, and Problems as one line on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError

from projects.errors import Problem
from projects.models import Project


def project_named(slug: str) -> Project:
    """Raises CommandError that lists what there is."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        known = ", ".join(Project.objects.values_list("slug", flat=True)[:20]) or "none yet"
        raise CommandError(f"There is no project {slug}. There are: {known}.")
    return project


@contextmanager
def said_plainly() -> Iterator[None]:
    """A Problem becomes a CommandError with its sentence."""
    try:
        yield
    except Problem as problem:
        raise CommandError(problem.message) from problem
