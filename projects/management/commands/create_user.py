"""`manage.py create_user ada --project demo --role manager`: a person who may sign in."""

from __future__ import annotations

import os
import secrets
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from projects.models import Membership, Project, User
from projects.services import SYSTEM, add_member


class Command(BaseCommand):
    help = "Create a person, print the password, and make them a member or an operator."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--project", help="slug of the project to join")
        parser.add_argument("--role", choices=Membership.Role.values, default=Membership.Role.RATER)
        parser.add_argument(
            "--operator", action="store_true", help="may use the admin console, for all projects"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if User.objects.filter(username=options["username"]).exists():
            raise CommandError(f"There is already a person {options['username']}.")
        # Never on the command line, where other people of the machine could read it.
        password = os.environ.get("RATCHET_PASSWORD") or secrets.token_urlsafe(12)
        with transaction.atomic():
            user = User.objects.create_user(username=options["username"], password=password)
            if options["operator"]:
                user.is_staff = user.is_superuser = True
                user.save(update_fields=["is_staff", "is_superuser"])
            if options["project"]:
                project = Project.objects.filter(slug=options["project"]).first()
                if project is None:
                    raise CommandError(f"There is no project {options['project']}.")
                add_member(project=project, user=user, role=options["role"], actor=SYSTEM)
        self.stdout.write(password)
