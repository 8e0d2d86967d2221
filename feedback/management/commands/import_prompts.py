"""`manage.py import_prompts FILE --project demo`: prompts from JSONL or CSV, of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from feedback.imports import ERRORS_SHOWN, PromptImport, from_csv, from_lines, summary
from projects.bodies import read_lines
from projects.errors import Problem
from projects.models import Project

TOLD_EVERY = 10_000  # lines


class Command(BaseCommand):
    help = "Import prompts from a file: JSONL as POST /api/v1/prompts takes it, or CSV with a header."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--project", required=True, help="slug of the project")
        parser.add_argument("--as", choices=("jsonl", "csv"), help="default: by the file's name")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']}.")
        path: Path = options["file"]
        form = options["as"] or ("csv" if path.suffix.lower() == ".csv" else "jsonl")
        done = PromptImport(project, may_audit=True)
        try:
            with path.open("rb") as file:
                lines = read_lines(file, limit=settings.MAX_BODY_BYTES)
                told = 0
                for total in done.run(from_csv(file) if form == "csv" else from_lines(lines)):
                    if total - told >= TOLD_EVERY:
                        told = total
                        self.stderr.write(f"{total:,} lines")
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
        except Problem as problem:
            raise CommandError(problem.message) from problem
        for wrong in done.errors:
            self.stderr.write(f"line {wrong['line']}: {wrong['message']} ({wrong['code']})")
        if done.failed > len(done.errors):
            self.stderr.write(f"and {done.failed - ERRORS_SHOWN} more")
        self.stdout.write(summary(done))
        if done.failed:
            raise CommandError(f"{done.failed} lines were refused; the others are imported.")
