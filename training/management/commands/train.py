"""`manage.py train dpo --project kitchen`: start a run and watch it to its end; Ctrl-C cancels it."""

from __future__ import annotations

import argparse
import json
import signal
import time
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

from inference.services.references import find_version
from projects.services import SYSTEM
from training.management.commands._progress import Progress
from training.management.commands._project import project_named, row_numbered, said_plainly
from training.models import Dataset, Run
from training.services import supervisor
from training.services.advice import TOKENS_A_TEXT, estimate_run
from training.services.methods import METHODS
from training.services.runs import RunOver, cancel_run, create_run, resume_run, runs_of
from training.tasks import ring, tick_runs

LOOK_AGAIN_SECONDS = 0.5
FAILED, REFUSED, CANCELLED, LEFT = 1, 2, 3, 130
EXAMPLES = """
examples:
  manage.py train dpo --project kitchen                  on all pairs that are usable now
  manage.py train dpo --project kitchen --here           with no trainer running: this command is it
  manage.py train dpo --project kitchen --dataset 4 --seed 7
  manage.py train dpo --project kitchen --config '{"epochs": 2, "beta": 0.05}'
  manage.py train dpo --project kitchen --no-wait        queue it and return
  manage.py train --project kitchen --resume 3           what was cancelled or failed goes on
  manage.py train sft --project kitchen                  on corrections and liked answers
  manage.py train kto --project kitchen                  on thumbs
  manage.py train reward --project kitchen               a reward model
  manage.py train rloo --project kitchen --reward v4     prompts that nobody judged, against it
  manage.py train ppo --project kitchen --reward v4
  manage.py train pretrain --project kitchen             on imported documents
  manage.py train score --project kitchen --reward v4    a score for each answer; trains nothing
  manage.py train evaluate --project kitchen --judged v5 --reward v4

Ctrl-C cancels the run and keeps its checkpoint; a second one leaves at once.

exit status:
    0  it finished (with --no-wait: it is queued)
    1  it failed; the sentence says why
    2  refused: nothing was started
    3  it was cancelled, here or elsewhere; --resume goes on with it
  130  left at once by a second Ctrl-C; the sentence says how to find the run again
"""


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of options, and our examples as they are written."""


class Command(BaseCommand):
    help = "Start a run on a project's feedback and wait for its end, with progress."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=_Formatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("method", nargs="?", choices=sorted(METHODS), help="what to do; see the examples")
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("--resume", type=int, metavar="N", help="go on with run N, in place of a method")
        parser.add_argument("--dataset", type=int, metavar="N", help="compile a new one when left out")
        parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="hyperparameters")
        parser.add_argument("--reward", metavar="VERSION", help="the reward model: v7; else the newest")
        parser.add_argument("--judged", metavar="VERSION", help="what score and evaluate look at: v7")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--no-wait", action="store_true", help="queue it and return")
        parser.add_argument("--here", action="store_true", help="supervise it here, without a trainer")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            run = self._begin(**options)
        except CommandError as error:
            error.returncode = REFUSED
            raise
        if not options["here"]:
            ring(tick_runs)
        if not options["no_wait"]:
            self._watch(run, is_ours=options["here"])

    def _begin(self, **options: Any) -> Run:
        """The queued run. Raises CommandError for whatever is refused; then there is none."""
        project = project_named(options["project"])
        if (options["method"] is None) == (options["resume"] is None):
            raise CommandError("Name either a method, such as dpo, or a run to go on with: --resume 3.")
        number = options["dataset"]
        with said_plainly():
            if options["resume"] is not None:
                run = resume_run(run=row_numbered(runs_of(project), project, options["resume"]), actor=SYSTEM)
                self.stdout.write(f"Run {run.number}, {run.method}, goes on after step {run.step}.")
                return run
            run = create_run(
                project=project,
                method=options["method"],
                dataset=row_numbered(Dataset.objects.all(), project, number) if number is not None else None,
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
        return run

    def _watch(self, run: Run, *, is_ours: bool) -> None:
        """To its end. Raises CommandError, with its status, for every end but a good one."""
        progress = Progress(self.stdout)
        with _Interruptions() as interruptions:
            try:
                while run.is_active:
                    if interruptions.count and not run.cancel_requested:
                        self._cancel(run, progress, is_ours=is_ours)
                    if is_ours:
                        supervisor.tick(run.id)
                    run.refresh_from_db()
                    progress.show(run)
                    if run.is_active:
                        time.sleep(LOOK_AGAIN_SECONDS)
            except _LeftAtOnce:
                progress.end()
                raise CommandError(
                    f"Left. Run {run.number} is being cancelled; its trainer finishes that.", returncode=LEFT
                ) from None
        progress.end()
        resume = f"manage.py train --project {run.project.slug} --resume {run.number}"
        if run.status == Run.Status.CANCELLED:
            raise CommandError(
                f"Run {run.number} was cancelled at step {run.step} of {run.total_steps}. "
                f"Go on with: {resume}",
                returncode=CANCELLED,
            )
        if run.status != Run.Status.FINISHED:
            raise CommandError(
                f"Run {run.number} {run.status} ({run.cause}): {run.message} "
                f"When that is mended, go on with: {resume}",
                returncode=FAILED,
            )
        made = run.version or f"{run.total_steps} rows in {run.folder / 'artifact'}"
        self.stdout.write(self.style.SUCCESS(f"Run {run.number} made {made}."))

    def _cancel(self, run: Run, progress: Progress, *, is_ours: bool) -> None:
        progress.say("Cancelling; its checkpoint is being written. Ctrl-C again leaves at once.")
        try:
            cancel_run(run=run, actor=SYSTEM)
        except RunOver:
            return  # it ended meanwhile
        if not is_ours:
            ring(tick_runs)


class _LeftAtOnce(BaseException):
    """A second Ctrl-C. Raised wherever the process is; no `except Exception` may keep it."""


class _Interruptions:
    """Counts Ctrl-C while a run is watched: the first is only noted, the second ends the watching."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> _Interruptions:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise _LeftAtOnce
