"""The workbench's settings, and the line's counter."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F

from feedback.models import OptOut, Task, Workbench
from inference.models import Completion
from projects.errors import Invalid
from projects.models import Project
from projects.services import Actor, record_audit

SETTINGS = (
    "weights", "random_share", "overlap", "live_share", "live_kind", "samples_conversations", "daily_cap",
    "gold_share", "qualification_tasks", "qualification_accuracy", "min_seconds", "reviews_disputes",
    "review_below", "flag_raters",
)  # fmt: skip


def workbench_of(project: Project) -> Workbench:
    """The project's workbench, made with its defaults when it is first asked for."""
    try:
        return project.workbench
    except Workbench.DoesNotExist:
        return Workbench.objects.get_or_create(project=project)[0]


def locked_workbench(project: Project) -> Workbench:
    """The row, locked until the transaction ends: one draw or sweep of a project at a time.

    What hangs on `project` is not believed: another transaction may have put it there and be undone.
    """
    rows = Workbench.objects.select_for_update(of=("self",)).select_related("project")
    workbench = rows.filter(project=project).first()
    if workbench is None:
        Workbench.objects.get_or_create(project=project)
        workbench = rows.get(project=project)
    return workbench


@transaction.atomic
def update_workbench(*, project: Project, actor: Actor, **changes: Any) -> Workbench:
    """Change settings (SETTINGS names them). Raises Invalid naming the field."""
    workbench = workbench_of(project)
    for name, value in changes.items():
        if name not in SETTINGS:
            raise Invalid(f"There is no setting {name}. There are: {', '.join(SETTINGS)}.", param=name)
        setattr(workbench, name, value)
    _check_weights(workbench.weights)
    if workbench.live_kind not in (Task.Kind.RATE, Task.Kind.CORRECT):
        raise Invalid("One live answer can be rated or corrected.", param="live_kind")
    try:
        workbench.clean_fields(exclude=["project"])
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise Invalid(f"{field}: {messages[0]}", param=field) from error
    workbench.save(update_fields=sorted(changes))
    record_audit(
        project=project,
        actor=actor,
        action="workbench.changed",
        subject=f"project:{project.slug}",
        detail={"changes": changes},
    )
    return workbench


def take_places(project: Project, count: int) -> range:
    """The next `count` places in the line. They only grow."""
    with transaction.atomic():
        row = locked_workbench(project)
        Workbench.objects.filter(project=project).update(next_place=F("next_place") + count)
    return range(row.next_place, row.next_place + count)


def opt_out(*, project: Project, subject: str) -> None:
    """A program's end user is never sampled from now on; tasks that wait for raters are closed."""
    if not subject:
        raise Invalid("Name the end user.", param="subject")
    OptOut.objects.get_or_create(project=project, subject=subject)
    waiting = Task.objects.filter(project=project, source=Task.Source.LIVE, is_open=True)
    waiting.filter(completions__subject=subject).update(is_open=False)


def opt_in(*, project: Project, subject: str) -> None:
    """What they were answered from now on may be sampled; what came until now stays out."""
    Completion.objects.filter(project=project, subject=subject).update(opted_out=True)
    OptOut.objects.filter(project=project, subject=subject).delete()


def _check_weights(weights: Any) -> None:
    if not isinstance(weights, dict) or not weights:
        raise Invalid("weights must give each strategy a share, such as random 1.", param="weights")
    for name, weight in weights.items():
        if name not in Task.Strategy.values:
            raise Invalid(
                f"Unknown strategy {name!r}. There are: {', '.join(Task.Strategy.values)}.", param="weights"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e6:
            raise Invalid(f"The weight of {name} must be a number from 0, got {weight!r}.", param="weights")
    if not sum(weights.values()) > 0:
        raise Invalid("At least one strategy needs a weight above 0.", param="weights")
