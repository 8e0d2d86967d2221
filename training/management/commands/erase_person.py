"""`manage.py erase_person --project kitchen --user bob`, or `--subject customer-7`: with a dry run first."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from projects.services import SYSTEM
from training.api.erasures import ErasureSerializer
from training.management.commands._project import project_named, said_plainly
from training.models import Erasure
from training.services.erasure import find_person, foretell_erasure, request_erasure, run_erasure


class Command(BaseCommand):
    help = "Erase a person from a project. Says what it would do; --yes does it and prints the report."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        who = parser.add_mutually_exclusive_group(required=True)
        who.add_argument("--user", default="", metavar="NAME", help="a member")
        who.add_argument("--subject", default="", metavar="ID", help="an end user, as programs name them")
        parser.add_argument("--mode", choices=Erasure.Mode.values, default=Erasure.Mode.REMOVE)
        parser.add_argument("--reason", default="", help="such as the request's number; no names, it stays")
        parser.add_argument("--yes", action="store_true", help="do it")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        with said_plainly():
            person = find_person(project=project, user=options["user"], subject=options["subject"])
            if not options["yes"]:
                self._foretell(person, options["mode"])
                return
            erasure, _ = request_erasure(
                person=person, mode=options["mode"], reason=options["reason"], actor=SYSTEM
            )
            done = run_erasure(erasure.pk)
        if done is None:
            raise CommandError(f"A worker is at erasure {erasure.number} already.")
        self.stdout.write(json.dumps(ErasureSerializer(done).data, indent=2))

    def _foretell(self, person: Any, mode: str) -> None:
        foretold = foretell_erasure(person, mode=mode)
        for what, count in foretold.counts.items():
            if count:
                self.stdout.write(f"{count:>9,}  {what}")
        datasets = ", ".join(str(one.number) for one in foretold.datasets) or "none"
        versions = ", ".join(f"v{one.number}" for one in foretold.versions) or "none"
        self.stdout.write(f"Datasets to be deleted: {datasets}. Versions to be marked: {versions}.")
        self.stdout.write("Nothing was changed. Add --yes to do it; it cannot be undone.")
