"""Numbers that count up inside a project: dataset 3, run 7, evaluation 2."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import IntegrityError, models, transaction
from django.db.models import Max

from projects.models import Project

Row = TypeVar("Row", bound=models.Model)
_TRIES = 20


def create_numbered(model: type[Row], *, project: Project, **fields: Any) -> Row:
    """Insert a row with the project's next number; of two at once, the later one takes the number after.

    Raises IntegrityError when it is not the number that another row holds.
    """
    rows = model._default_manager
    for attempt in range(_TRIES):
        number = (rows.filter(project=project).aggregate(last=Max("number"))["last"] or 0) + 1
        try:
            with transaction.atomic():
                return rows.create(project=project, number=number, **fields)
        except IntegrityError:
            taken = rows.filter(project=project, number=number).exists()
            if not taken or attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")
