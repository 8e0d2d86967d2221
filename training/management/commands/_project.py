"""What the commands of learning share: rows by the names people give them, and Problems as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import CommandError
from django.db.models import QuerySet

from projects.errors import Problem
from projects.models import Project
from training.services.numbers import Row


def project_named(slug: str) -> Project:
    """Raises CommandError that lists what there is."""
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        known = ", ".join(Project.objects.values_list("slug", flat=True)[:20]) or "none yet"
        raise CommandError(f"There is no project {slug}. There are: {known}.")
    return project


def row_numbered(rows: QuerySet[Row], project: Project, number: int) -> Row:
    """The project's row of that number. Raises CommandError."""
    found = rows.filter(project=project, number=number).first()
    if found is None:
        raise CommandError(f"There is no {rows.model._meta.verbose_name} {number} in {project.slug}.")
    return found


@contextmanager
def said_plainly() -> Iterator[None]:
    """A Problem becomes a CommandError with its sentence."""
    try:
        yield
    except Problem as problem:
        raise CommandError(problem.message) from problem
