"""`manage.py evaluate --project kitchen --candidate v3`: put a version to the gate, or `--decide N`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from inference.services.references import find_version
from projects.services import SYSTEM
from training.management.commands._project import project_named, row_numbered, said_plainly
from training.models import Evaluation
from training.services.evaluations import create_evaluation, decide
from training.tasks import ring, tick_work


class Command(BaseCommand):
    help = "Evaluate a candidate against the champion: Ratchet makes the answers, the raters judge them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, metavar="SLUG")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--candidate", metavar="VERSION", help="such as v3")
        what.add_argument("--decide", type=int, metavar="N", help="count the votes of evaluation N now")
        parser.add_argument("--champion", metavar="VERSION", help="what serves now, when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        if options["decide"] is not None:
            known = Evaluation.objects.select_related("project", "candidate__project", "champion__project")
            evaluation = row_numbered(known, project, options["decide"])
            with said_plainly():
                evaluation = decide(evaluation=evaluation, actor=SYSTEM)
            self.stdout.write(f"{evaluation.verdict}: {evaluation.reason}")
            return
        with said_plainly():
            champion = find_version(project, options["champion"]) if options["champion"] else None
            evaluation = create_evaluation(
                project=project,
                candidate=find_version(project, options["candidate"]),
                champion=champion,
                sample=True,
                actor=SYSTEM,
            )
        ring(tick_work)
        self.stdout.write(
            f"Evaluation {evaluation.number}: {evaluation}, on {len(evaluation.prompt_ids)} gate prompts. "
            "Raters find its battles on the work page."
        )
