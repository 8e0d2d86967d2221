"""`manage.py promote --project kitchen --version v3 --reason "..."`, or `--rollback`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from inference.services.references import find_version
from projects.services import SYSTEM
from training.management.commands._project import project_named, said_plainly
from training.services.promotion import promote_version, rollback_version


class Command(BaseCommand):
    help = "Have a version serve that the gate found better; or go back to the one before."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Ours takes the place of Django's own --version, which prints Django's.
        return super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--version", metavar="VERSION", help="such as v3")
        what.add_argument("--rollback", action="store_true", help="back to the champion before")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--share", type=float, default=1.0, help="below 1: as a canary for that share")
        parser.add_argument("--canary", action="store_true", help="1, 5, 25 %% and all, by itself, or back")
        parser.add_argument("--override", action="store_true", help="without a verdict; audited")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        with said_plainly():
            if options["rollback"]:
                deployment = rollback_version(project=project, actor=SYSTEM, reason=options["reason"])
            else:
                deployment = promote_version(
                    project=project,
                    version=find_version(project, options["version"]),
                    actor=SYSTEM,
                    reason=options["reason"],
                    share=options["share"],
                    override=options["override"],
                    canary=options["canary"],
                )
        serves = deployment.canary or deployment.champion
        share = f" for {deployment.canary_share:.0%}" if deployment.canary else ""
        self.stdout.write(self.style.SUCCESS(f"Deployment {deployment.number}: {serves} serves{share}."))
