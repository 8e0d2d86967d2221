from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.services.deployments import rollback
from projects.errors import Problem
from projects.models import Project
from projects.services import SYSTEM


class Command(BaseCommand):
    help = "Go back to the version that served before; withdraws a canary when one is out."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="the project's slug")
        parser.add_argument("--reason", required=True, help="why, for the audit trail")

    def handle(self, *args: Any, project: str, reason: str, **options: Any) -> None:
        found = Project.objects.filter(slug=project).first()
        if found is None:
            raise CommandError(f"There is no project {project}.")
        try:
            deployment = rollback(project=found, actor=SYSTEM, reason=reason)
        except Problem as problem:
            raise CommandError(problem.message) from problem
        self.stdout.write(f"{found.slug} serves {deployment.champion.label} again.")
