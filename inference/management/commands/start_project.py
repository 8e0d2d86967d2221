from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.services.versions import start_project
from projects.errors import Problem
from projects.models import Membership, User
from projects.services import SYSTEM, add_member


class Command(BaseCommand):
    help = "Start a project: its base model is v1 and serves at once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--slug", required=True, help="what programs call it, such as support")
        parser.add_argument("--name", required=True, help="what people read")
        parser.add_argument("--manager", help="name of a user who manages it")
        parser.add_argument("--gate-share", type=float, help="share of prompts kept for the gate (0.1)")
        parser.add_argument("--max-tokens", type=int, help="longest answer on pages and in evaluations (256)")

    def handle(self, *args: Any, slug: str, name: str, manager: str | None, **options: Any) -> None:
        fields = {key: options[key] for key in ("gate_share", "max_tokens") if options[key] is not None}
        user = User.objects.filter(username=manager).first() if manager else None
        if manager and user is None:
            raise CommandError(f"There is no user {manager}: manage.py create_user {manager}")
        try:
            project = start_project(slug=slug, name=name, actor=SYSTEM, **fields)
        except Problem as problem:
            raise CommandError(problem.message) from problem
        if user is not None:
            add_member(project=project, user=user, role=Membership.Role.MANAGER, actor=SYSTEM)
        self.stdout.write(f"{project.slug} serves {project.slug}@v1.")
