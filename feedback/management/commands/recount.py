"""`manage.py recount`: hold the counts that pages add up against the rows they count, and mend them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from feedback.counts import ALL_SERIES
from projects.models import Project
from projects.services import hourly


class Command(BaseCommand):
    help = "Count prompts, answers and judgements of all hours anew; says what differed, and mends it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", help="slug of the project; all when left out")

    def handle(self, *args: Any, **options: Any) -> None:
        projects = Project.objects.all()
        if options["project"]:
            projects = projects.filter(slug=options["project"])
            if not projects.exists():
                raise CommandError(f"There is no project {options['project']}.")
        for project in projects:
            wrong = hourly.recount(project=project, series=ALL_SERIES)
            hourly.count_hours(project=project, series=ALL_SERIES)
            for difference in wrong:
                self.stdout.write(f"{project.slug} {difference}")
            self.stdout.write(f"{project.slug}: {len(wrong)} kept counts were wrong.")
