"""`manage.py create_key --project demo --name robot --scopes generate feedback:write`: a program's way in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from projects.errors import Problem
from projects.models import ApiKey, Project
from projects.services import SYSTEM, create_api_key


class Command(BaseCommand):
    help = "Create an API key and print its value, which is shown this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="slug of the project")
        parser.add_argument("--name", required=True, help="what the key is for")
        parser.add_argument(
            "--scopes",
            nargs="+",
            default=ApiKey.Scope.values,
            help="default: all; " + ", ".join(ApiKey.Scope.values),
        )

        parser.add_argument("--days", type=float, help="after so many it expires; never when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        try:
            _, value = create_api_key(
                project=project,
                name=options["name"],
                scopes=options["scopes"],
                expires=timezone.now() + timedelta(days=options["days"]) if options["days"] else None,
                actor=SYSTEM,
            )
        except Problem as problem:
            raise CommandError(problem.message) from problem
        self.stdout.write(value)
