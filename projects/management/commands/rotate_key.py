"""`manage.py rotate_key 0a1b2c3d4e`: another value for a key, named by its `rk_<prefix>_`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from projects.errors import Problem
from projects.models import ApiKey
from projects.services import SYSTEM, rotate_api_key


class Command(BaseCommand):
    help = "Give an API key another value and print it, this once. The one before is good for a while."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("prefix", help="of rk_<prefix>_<secret>")
        parser.add_argument("--grace-hours", type=float, default=24.0, help="how long the old value is good")

    def handle(self, *args: Any, **options: Any) -> None:
        key = ApiKey.objects.select_related("project").filter(prefix=options["prefix"]).first()
        if key is None:
            raise CommandError(f"There is no key {options['prefix']}.")
        try:
            _, value = rotate_api_key(
                key=key, grace=timedelta(hours=max(0.0, options["grace_hours"])), actor=SYSTEM
            )
        except Problem as problem:
            raise CommandError(problem.message) from problem
        self.stdout.write(value)
