"""Where questions come from by themselves: answers at hand that nobody compared."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from feedback.models import Preference, Task, Workbench
from feedback.services.tasks import create_compare_task
from feedback.services.workbench import workbench_of
from inference.models import Completion, Prompt
from projects.models import Project

SWEPT_AT_ONCE = 500  # answers
# Looked at again each time: an answer is finished a moment before others can see its row.
OVERLAP = timedelta(seconds=30)
_dice = random.SystemRandom()


@transaction.atomic
def sweep_answers(*, project: Project) -> int:
    """Make comparisons of the answers that were finished since the last sweep. Returns how many are new.

    A train prompt with two finished answers that differ, about which nobody was asked and nobody said
    anything, becomes one comparison. One sweep of a project at a time; each costs as much as there is new.
    """
    workbench_of(project)
    workbench = Workbench.objects.select_for_update().get(project=project)
    answers, until = _finished_since(workbench)
    made = 0
    prompts = {answer.prompt_id for answer in answers}
    for prompt in _unasked(project).filter(pk__in=prompts).select_related("conversation").order_by("-id"):
        made += _compare(project, prompt)
    if until is not None:
        workbench.swept = until
        workbench.save(update_fields=["swept"])
    return made


def _finished_since(workbench: Workbench) -> tuple[list[Completion], datetime | None]:
    """The next answers in the order in which they ended, and up to when that is all there is."""
    ended = Completion.objects.filter(project=workbench.project_id, state=Completion.State.FINISHED)
    if workbench.swept is not None:
        ended = ended.filter(finished__gt=workbench.swept - OVERLAP)
    rows = list(ended.order_by("finished").only("prompt_id", "finished")[:SWEPT_AT_ONCE])
    return rows, rows[-1].finished if rows else None


def _unasked(project: Project) -> QuerySet[Prompt]:
    return Prompt.objects.for_training().filter(
        ~Exists(Task.objects.filter(prompt=OuterRef("pk"))),
        ~Exists(Preference.objects.usable().filter(prompt=OuterRef("pk"))),
        project=project,
    )


def _compare(project: Project, prompt: Prompt) -> int:
    answers = list(prompt.completions.filter(state=Completion.State.FINISHED, quarantined=False))
    if not answers:
        return 0
    _dice.shuffle(answers)
    others = [answer for answer in answers if answer.text != answers[0].text]
    if not others:
        return 0
    create_compare_task(project=project, prompt=prompt, completions=[answers[0], others[0]])
    return 1
