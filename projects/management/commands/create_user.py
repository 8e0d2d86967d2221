"""`manage.py create_user ada --project demo --role manager`: a person who may sign in, or one who joins."""

from __future__ import annotations

import os
import secrets
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from projects.models import Membership, Project, User
from projects.services import SYSTEM, add_member


class Command(BaseCommand):
    help = (
        "Create a person, print the password, and make them a member or an operator; or add one to a project."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--project", help="slug of the project to join")
        parser.add_argument("--role", choices=Membership.Role.values, default=Membership.Role.RATER)
        parser.add_argument(
            "--operator", action="store_true", help="may use the admin console, for all projects"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if person := User.objects.filter(username=options["username"]).first():
            return self._join(person, options)
        # Never on the command line, where other people of the machine could read it.
        password = os.environ.get("RATCHET_PASSWORD") or secrets.token_urlsafe(12)
        with transaction.atomic():
            user = User.objects.create_user(username=options["username"], password=password)
            if options["operator"]:
                user.is_staff = user.is_superuser = True
                user.save(update_fields=["is_staff", "is_superuser"])
            if options["project"]:
                add_member(
                    project=_project(options["project"]), user=user, role=options["role"], actor=SYSTEM
                )
        self.stdout.write(password)
        return None

    def _join(self, person: User, options: dict[str, Any]) -> None:
        """Somebody who is there already gets a role in the project; password and all else stay."""
        if options["operator"] or not options["project"]:
            raise CommandError(f"There is already a person {person}. With --project they join one.")
        add_member(project=_project(options["project"]), user=person, role=options["role"], actor=SYSTEM)
        self.stderr.write(
            f"{person} was there already and is {options['role']} of {options['project']} now."
            " The password stays."
        )


def _project(slug: str) -> Project:
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        raise CommandError(f"There is no project {slug}.")
    return project
