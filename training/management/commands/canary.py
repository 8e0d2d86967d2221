"""`manage.py canary --project kitchen`: where the version on its way stands, and to steer it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from projects.services import SYSTEM
from training.management.commands._project import project_named, said_plainly
from training.services.rollouts import (
    active_rollout,
    finish_rollout,
    pause_rollout,
    resume_rollout,
    roll_back_rollout,
)


class Command(BaseCommand):
    help = "Show the version on its way from a canary to all requests; pause, resume, finish, roll back."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--pause", action="store_true", help="keep its share; its guards go on")
        what.add_argument("--resume", action="store_true")
        what.add_argument("--finish", action="store_true", help="all requests now; or the end of its watch")
        what.add_argument("--rollback", action="store_true", help="what served before")
        parser.add_argument("--reason", default="", help="for --finish and --rollback")

    def handle(self, *args: Any, **options: Any) -> None:
        rollout = active_rollout(project_named(options["project"]))
        if rollout is None:
            raise CommandError(f"{options['project']} has no version on its way.")
        said = {"rollout": rollout, "actor": SYSTEM, "reason": options["reason"]}
        with said_plainly():
            if options["pause"]:
                pause_rollout(**said)
            elif options["resume"]:
                resume_rollout(**said)
            elif options["finish"]:
                finish_rollout(**said)
            elif options["rollback"]:
                roll_back_rollout(**said)
        self.stdout.write(f"{rollout}, {rollout.get_status_display()}: {rollout.message}")
        for line in rollout.findings.get("lines", []):
            self.stdout.write(f"  {line['name']}: {line['state']}. {line['words']}")
