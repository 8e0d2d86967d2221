"""`manage.py train dpo --project kitchen`: start a run and watch it. Ctrl-C leaves it running."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.services.references import find_version
from projects.services import SYSTEM
from training.management.commands._project import project_named, said_plainly
from training.models import Dataset, Run
from training.services import supervisor
from training.services.advice import TOKENS_A_TEXT, estimate_run
from training.services.methods import METHODS
from training.services.runs import create_run
from training.tasks import ring, tick_runs

LOOK_AGAIN_SECONDS = 1.0


class Command(BaseCommand):
    help = "Start a run on a project's feedback and wait for its end, with progress."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("method", choices=sorted(METHODS))
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--dataset", type=int, metavar="N", help="compile a new one when left out")
        parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="hyperparameters")
        parser.add_argument("--reward", metavar="VERSION", help="the reward model: v7; else the newest")
        parser.add_argument("--judged", metavar="VERSION", help="what score and evaluate look at: v7")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--no-wait", action="store_true", help="queue it and return")
        parser.add_argument("--here", action="store_true", help="supervise it here, without a trainer")

    def handle(self, *args: Any, **options: Any) -> None:
        project = project_named(options["project"])
        dataset = None
        if options["dataset"] is not None:
            dataset = Dataset.objects.filter(project=project, number=options["dataset"]).first()
            if dataset is None:
                raise CommandError(f"There is no dataset {options['dataset']} in {project.slug}.")
        with said_plainly():
            run = create_run(
                project=project,
                method=options["method"],
                dataset=dataset,
                config=options["config"],
                reward=find_version(project, options["reward"]) if options["reward"] else None,
                judged=find_version(project, options["judged"]) if options["judged"] else None,
                seed=options["seed"],
                actor=SYSTEM,
            )
        rows = f"{run.dataset.rows} {METHODS[run.method].config.unit}"
        self.stdout.write(f"Run {run.number}: {rows}, {run.total_steps} steps.")
        config = METHODS[run.method].config.from_dict(run.config)
        foretold = estimate_run(project, config, rows=run.dataset.rows)
        if foretold is not None:
            self.stdout.write(
                f"It will take {foretold.in_words()}, if its texts have {TOKENS_A_TEXT:.0f} tokens."
            )
        if not options["here"]:
            ring(tick_runs)
        if options["no_wait"]:
            return
        self._watch(run, is_ours=options["here"])

    def _watch(self, run: Run, *, is_ours: bool) -> None:
        shown = ""
        while run.is_active:
            if is_ours:
                supervisor.tick(run.id)
            run.refresh_from_db()
            line = _progress(run)
            if line != shown:
                self.stdout.write(line)
                shown = line
            if run.is_active:
                time.sleep(LOOK_AGAIN_SECONDS)
        if run.status != Run.Status.FINISHED:
            raise CommandError(f"Run {run.number} {run.status} ({run.cause}): {run.message}")
        made = run.version or f"{run.total_steps} rows in {run.folder / 'artifact'}"
        self.stdout.write(self.style.SUCCESS(f"Run {run.number} made {made}."))


def _progress(run: Run) -> str:
    parts = [f"{run.status}  step {run.step}/{run.total_steps}"]
    for name in ("loss", "reward_accuracy", "tokens_per_second", "seconds_left"):
        if isinstance(run.metrics.get(name), int | float):
            parts.append(f"{name} {run.metrics[name]:.4g}")
    return "  ".join(parts)
