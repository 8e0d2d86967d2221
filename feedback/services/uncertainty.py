"""How little is known about who wins each comparison of the backlog, for the strategy `uncertain`.

Where one reward model scored all answers of a task, p = sigmoid(difference of scores) for each two of them.
Else the leaderboard says it: the chance that one version is stronger than the other, by their points and
intervals; two answers of one version, or a version without a vote, are as open as can be. The uncertainty of
a task is the mean of 1 - |2p - 1| over each two answers: 1 is a coin, 0 is certain.

Measured by a schedule, only where `uncertain` has a weight, and only when votes, scores or tasks came.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any
from uuid import UUID

from django.db.models import Max

from feedback.models import Leaderboard, Score, Task, Workbench
from feedback.services.draw import set_uncertainty
from inference.artifact import canonical_json
from inference.models import Completion, Version
from projects.models import Project

LATEST = 20_000  # tasks of the backlog that are looked at, the newest
AT_ONCE = 1_000
_WIDTH = 2 * 1.959964  # standard deviations in a 95 % interval


def store_scores(*, reward: Version, scores: Mapping[UUID, float]) -> int:
    """Keep what a reward model said of answers of its project, in place of what was said before."""
    ours = Completion.objects.filter(project=reward.project_id, pk__in=list(scores))
    rows = [
        Score(completion_id=pk, reward=reward, value=scores[pk]) for pk in ours.values_list("pk", flat=True)
    ]
    Score.objects.bulk_create(
        rows,
        batch_size=AT_ONCE,
        update_conflicts=True,
        unique_fields=["completion"],
        update_fields=["reward", "value", "created"],
    )
    return len(rows)


def measure_uncertainty(*, project: Project) -> int:
    """Bring the backlog's comparisons up to date. Returns how many tasks changed; 0 when nothing came."""
    workbench = Workbench.objects.filter(project=project).first()
    if workbench is None or not workbench.weights.get(Task.Strategy.UNCERTAIN):
        return 0
    fingerprint = _fingerprint(project)
    if workbench.uncertainty_of == fingerprint:
        return 0
    places = _places(project)
    waiting = Task.objects.in_backlog().filter(project=project, kind=Task.Kind.COMPARE)
    rows = list(waiting.order_by("-id").values_list("pk", "uncertainty")[:LATEST])
    changed = 0
    for start in range(0, len(rows), AT_ONCE):
        some = dict(rows[start : start + AT_ONCE])
        found = _of_tasks(list(some), places)
        fresh = {pk: value for pk, value in found.items() if not math.isclose(value, some[pk], abs_tol=1e-9)}
        changed += set_uncertainty(project=project, scores=fresh)
    Workbench.objects.filter(project=project).update(uncertainty_of=fingerprint)
    return changed


def uncertainty_of(chances: Iterable[float]) -> float:
    """Of the chances that the first of each two wins: 1 when all are even, 0 when all are certain."""
    values = [1 - abs(2 * chance - 1) for chance in chances]
    return sum(values) / len(values) if values else 1.0


def chance_by_scores(one: float, other: float) -> float:
    """That the first wins, by a reward model's scores."""
    return 1 / (1 + math.exp(min(700.0, other - one)))


def chance_by_places(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> float:
    """That the first version is the stronger one, by points and intervals of the leaderboard."""
    if one is None or other is None or one["version"] == other["version"]:
        return 0.5
    spread = math.hypot(*((place["high"] - place["low"]) / _WIDTH for place in (one, other)))
    distance = one["points"] - other["points"]
    if spread == 0:
        return 0.5 if distance == 0 else float(distance > 0)
    return 0.5 * (1 + math.erf(distance / spread / math.sqrt(2)))


def _of_tasks(ids: Sequence[UUID], places: Mapping[str, Mapping[str, Any]]) -> dict[UUID, float]:
    sides: defaultdict[UUID, list[tuple[str, float | None, UUID | None]]] = defaultdict(list)
    rows = Task.completions.through.objects.filter(task__in=ids).values_list(
        "task_id", "completion__version_label", "completion__score__value", "completion__score__reward"
    )
    for task, label, value, reward in rows:
        sides[task].append((label, value, reward))
    return {task: uncertainty_of(_chances(answers, places)) for task, answers in sides.items()}


def _chances(
    answers: Sequence[tuple[str, float | None, UUID | None]], places: Mapping[str, Mapping[str, Any]]
) -> list[float]:
    scores = [value for _, value, _ in answers if value is not None]
    if len(scores) == len(answers) and len({reward for _, _, reward in answers}) == 1:
        return [chance_by_scores(one, other) for one, other in combinations(scores, 2)]
    return [
        chance_by_places(places.get(one), places.get(other))
        for one, other in combinations([label for label, _, _ in answers], 2)
    ]


def _places(project: Project) -> dict[str, dict[str, Any]]:
    """By label, the versions that some chain of votes joins with the champion."""
    board = Leaderboard.objects.filter(project=project).first()
    places = board.places if board else []
    return {place["version"]: place for place in places if place["is_connected"]}


def _fingerprint(project: Project) -> str:
    """Of all that an uncertainty depends on."""
    board = Leaderboard.objects.filter(project=project).values_list("fingerprint", flat=True).first()
    scored = Score.objects.filter(reward__project=project).aggregate(last=Max("created"))["last"]
    backlog = Task.objects.in_backlog().filter(project=project, kind=Task.Kind.COMPARE)
    newest = backlog.order_by("-id").values_list("pk", flat=True).first()
    return hashlib.sha256(canonical_json([board, str(scored), str(newest)])).hexdigest()
