"""What to ask next: strategies that draw tasks from the backlog into the line.

Each draw fills the line up to WINDOW tasks a kind. A share of the draw, never less than the workbench's
`random_share`, is random: the lowest lots, which is a uniform sample. Its `probability` is the lot that came
next: the chance with which a task of the project has been drawn by then, whatever is known about it. So what
raters say about `random_sample` is an unbiased measurement. The rest goes to the other strategies by their
weights; no chance is in those, and their `probability` stays empty.

    random     the lowest lots; each task got its lot at birth
    uncertain  the highest `uncertainty`
    newest     the youngest first

`disagreement` draws from elsewhere: a task whose raters disagree and that no reviewer settled is asked of one
more rater, up to MOST_RATERS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import Max, QuerySet

from feedback.models import Task, Workbench
from feedback.services.workbench import locked_workbench
from projects.models import Project

WINDOW = 200
MOST_RATERS = 5
_ORDER: dict[str, str] = {
    Task.Strategy.RANDOM: "chance",
    Task.Strategy.UNCERTAIN: "-uncertainty",
    Task.Strategy.NEWEST: "-id",
}


@transaction.atomic
def draw_tasks(*, project: Project, kinds: Sequence[str]) -> int:
    """Fill the line. Returns how many were drawn. One draw of a project at a time."""
    workbench = locked_workbench(project)
    drawn = 0
    for kind in kinds:
        if kind != Task.Kind.REVIEW:
            drawn += _draw_disputed(workbench, kind) + _draw_kind(workbench, kind)
    return drawn


def set_uncertainty(*, project: Project, scores: Mapping[UUID, float]) -> int:
    """Say how little is known about each task, by its id. Returns how many were in the backlog.

    Such as 1 - |2p - 1|, of the chance p that a reward model or a Bradley-Terry fit gives its first answer.
    Tasks in line stay where they are.
    """
    tasks = list(Task.objects.in_backlog().filter(project=project, pk__in=list(scores)))
    for task in tasks:
        task.uncertainty = scores[task.pk]
    return Task.objects.bulk_update(tasks, ["uncertainty"], batch_size=1000)


def shares(weights: dict[str, float], random_share: float) -> dict[str, float]:
    """The share of each strategy that draws from the backlog: they sum to 1, random has at least its own."""
    known = {name: float(weights.get(name, 0)) for name in _ORDER}
    total = sum(known.values())
    if total == 0:
        return {Task.Strategy.RANDOM: 1.0}
    known = {name: weight / total for name, weight in known.items()}
    if known[Task.Strategy.RANDOM] < random_share:
        others = 1 - known[Task.Strategy.RANDOM]
        known = {name: share / others * (1 - random_share) for name, share in known.items()}
        known[Task.Strategy.RANDOM] = random_share
    return {name: share for name, share in known.items() if share > 0}


def _draw_disputed(workbench: Workbench, kind: str) -> int:
    """One more rater for tasks that wait for a reviewer, the least agreed first."""
    weights = workbench.weights
    share = float(weights.get(Task.Strategy.DISAGREEMENT, 0)) / sum(weights.values())
    share *= 1 - workbench.random_share
    if share <= 0:
        return 0
    disputed = Task.objects.filter(
        project=workbench.project_id,
        kind=kind,
        outcome=Task.Outcome.DISPUTED,
        is_open=False,
        overlap__lt=MOST_RATERS,
    ).order_by("agreement")
    asked = Task.objects.in_line().filter(project=workbench.project_id, kind=kind, strategy="disagreement")
    wanted = round(WINDOW * share) - asked[:WINDOW].count()
    chosen = list(disputed.select_for_update(skip_locked=True)[: max(0, wanted)])
    for number, task in enumerate(chosen):
        task.overlap, task.is_open, task.outcome = task.overlap + 1, True, ""
        task.place, task.strategy = workbench.next_place + number, Task.Strategy.DISAGREEMENT
    workbench.next_place += len(chosen)
    Task.objects.bulk_update(chosen, ["overlap", "is_open", "outcome", "place", "strategy"])
    workbench.save(update_fields=["next_place"])
    return len(chosen)


def random_sample(project: Project, kind: str) -> QuerySet[Task]:
    """The tasks in line or answered that are a uniform sample: every lot below the highest drawn at random.

    Those that another strategy took first belong to it as well, since chance would have drawn them by now.
    """
    drawn = Task.objects.filter(project=project, kind=kind, strategy=Task.Strategy.RANDOM)
    reached = drawn.aggregate(reached=Max("probability"))["reached"] or 0.0
    return Task.objects.filter(project=project, kind=kind, place__isnull=False, chance__lt=reached)


def _draw_kind(workbench: Workbench, kind: str) -> int:
    backlog = Task.objects.in_backlog().filter(project=workbench.project_id, kind=kind)
    in_line = Task.objects.in_line().filter(project=workbench.project_id, kind=kind, priority=0)
    wanted = WINDOW - in_line[:WINDOW].count()
    drawn: list[tuple[float, Task]] = []
    if wanted > 0:
        for strategy, share in shares(workbench.weights, workbench.random_share).items():
            besides = [task.pk for _, task in drawn]
            rows = list(
                backlog.exclude(pk__in=besides).order_by(_ORDER[strategy])[: round(wanted * share) + 1]
            )
            # One more is read than is drawn: its lot is the probability of those below it.
            chosen = rows[: max(1, round(wanted * share))]
            for task in chosen:
                task.strategy = strategy
            if strategy == Task.Strategy.RANDOM:
                for task in chosen:
                    task.probability = rows[-1].chance if len(rows) > len(chosen) else 1.0
            # The strategies take turns in proportion, so that each slice is answered at the same pace.
            drawn += [((turn + 0.5) / len(chosen), task) for turn, task in enumerate(chosen)]
    drawn.sort(key=lambda one: one[0])
    for number, (_, task) in enumerate(drawn):
        task.place = workbench.next_place + number
    workbench.next_place += len(drawn)
    Task.objects.bulk_update([task for _, task in drawn], ["place", "strategy", "probability"])
    workbench.save(update_fields=["next_place"])
    return len(drawn)
