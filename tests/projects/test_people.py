"""People of a project, as an operator makes them from a shell."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from projects.access import role_in
from projects.models import User
from tests.cast import PASSWORD, Cast


def create_user(*args: str) -> str:
    out = StringIO()
    call_command("create_user", *args, stdout=out, stderr=StringIO())
    return out.getvalue().strip()


def test_a_new_person_may_sign_in_with_what_is_printed(cast: Cast):
    password = create_user("dan", "--project", "garden", "--role", "reviewer")
    assert cast.client.login(username="dan", password=password)
    assert role_in(User.objects.get(username="dan"), cast.garden) == "reviewer"


def test_one_who_is_there_joins_and_keeps_the_password(cast: Cast):
    assert create_user("bob", "--project", "garden", "--role", "manager") == ""
    assert (role_in(cast.bob, cast.garden), role_in(cast.bob, cast.project)) == ("manager", "rater")
    assert cast.client.login(username="bob", password=PASSWORD)


@pytest.mark.parametrize("more", [(), ("--operator",), ("--operator", "--project", "garden")])
def test_nothing_else_is_changed_of_one_who_is_there(cast: Cast, more: tuple[str, ...]):
    with pytest.raises(CommandError, match="already a person bob"):
        create_user("bob", *more)
    cast.bob.refresh_from_db()
    assert not cast.bob.is_operator and role_in(cast.bob, cast.garden) is None


def test_a_project_that_is_not_there_makes_nobody(cast: Cast):
    for name in ("dan", "bob"):
        with pytest.raises(CommandError, match="no project cellar"):
            create_user(name, "--project", "cellar")
    assert not User.objects.filter(username="dan").exists()
