"""Small readings of a posted form."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest

from projects.errors import Invalid, NotFound
from projects.models import User


def person(request: HttpRequest) -> User:
    """Who is signed in; pages ask only after `login_required`."""
    if not isinstance(request.user, User):
        raise NotFound()
    return request.user


def optional_uuid(request: HttpRequest, name: str) -> UUID | None:
    """The id in a field, None when it is empty. Raises Invalid for anything else."""
    value = request.POST.get(name, "")
    return as_uuid(value, name) if value else None


def as_uuid(value: str, name: str) -> UUID:
    """Raises Invalid."""
    try:
        return UUID(value)
    except ValueError as error:
        raise Invalid(f"{name} is not an id.", param=name) from error
