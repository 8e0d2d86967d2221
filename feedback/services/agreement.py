"""How far a project's raters agree: Krippendorff's alpha, measured by a schedule into stored rows.

1 is perfect, 0 is what chance gives. A unit is what two or more people judged: for `compare` each two answers
of one preference (first better, tie, second better: ordinal), for `rate` each answer and aspect (thumbs
nominal, scales interval). The interval is a bootstrap over units, 95 %. Raters in quarantine are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations
from typing import Any, Literal

import numpy as np
from django.db import transaction
from django.utils import timezone
from krippendorff import alpha as krippendorff_alpha

from feedback.models import Agreement, Candidate, Preference, Rating, Task
from feedback.services.raters import excluded_raters
from projects.models import Project

LATEST = 20_000  # judgements of each kind that are looked at
RESAMPLES = 500
LEAST_UNITS = 5

Judged = tuple[Hashable, str, int]  # unit, judge, value
Level = Literal["nominal", "ordinal", "interval"]


def measure_agreement(*, project: Project) -> list[Agreement]:
    """Measure and store; rows of aspects that nobody judges any more go."""
    now = timezone.now()
    excluded = set(excluded_raters(project, now))
    found = [_store(project, Task.Kind.COMPARE, "", "ordinal", _pairs(project, excluded))]
    by_aspect: defaultdict[str, list[Judged]] = defaultdict(list)
    rows = Rating.objects.usable().filter(project=project, is_final=False).exclude(judge__in=excluded)
    for aspect, completion, judge, value in rows.order_by("-id").values_list(
        "aspect", "completion_id", "judge", "value"
    )[:LATEST]:
        by_aspect[aspect].append((completion, judge, value))
    for aspect, judged in by_aspect.items():
        level: Level = "nominal" if aspect == "thumbs" else "interval"
        found.append(_store(project, Task.Kind.RATE, aspect, level, judged))
    Agreement.objects.filter(project=project, measured__lt=now).delete()
    return found


def alpha_with_interval(
    judged: Iterable[Judged], level: Level, *, seed: int = 0
) -> tuple[float | None, float | None, float | None, int]:
    """(alpha, low, high, units that two or more judged). Empty where there are too few, or no variety."""
    units: defaultdict[Hashable, list[int]] = defaultdict(list)
    for unit, _, value in judged:
        units[unit].append(value)
    several = [values for values in units.values() if len(values) > 1]
    domain = sorted({value for values in several for value in values})
    if len(several) < LEAST_UNITS or len(domain) < 2:
        return None, None, None, len(several)
    counts = np.array([[values.count(value) for value in domain] for values in several])  # (units, values)
    dice = np.random.default_rng(seed)
    resampled = (
        _alpha(counts[dice.integers(0, len(counts), len(counts))], domain, level) for _ in range(RESAMPLES)
    )
    low, high = np.quantile([one for one in resampled if one is not None], [0.025, 0.975])
    return _alpha(counts, domain, level), float(low), float(high), len(several)


def _alpha(counts: Any, domain: list[int], level: Level) -> float | None:
    """None for a sample without variety, of which alpha says nothing."""
    used = counts.sum(axis=0) > 0
    if used.sum() < 2:
        return None
    values = [value for value, is_used in zip(domain, used, strict=True) if is_used]
    return float(
        krippendorff_alpha(value_counts=counts[:, used], value_domain=values, level_of_measurement=level)
    )


def _pairs(project: Project, excluded: set[str]) -> list[Judged]:
    """Each two answers of each preference: -1 the first by id is better, 1 the second, 0 tie or all bad."""
    rows = Preference.objects.usable().filter(project=project, is_final=False).exclude(judge__in=excluded)
    judges = dict(rows.order_by("-id").values_list("pk", "judge")[:LATEST])
    ranks: defaultdict[Any, list[tuple[str, int]]] = defaultdict(list)
    sides = Candidate.objects.filter(preference__in=list(judges)).order_by()
    for preference, completion, rank in sides.values_list("preference_id", "completion_id", "rank"):
        ranks[preference].append((str(completion), rank or 0))
    judged: list[Judged] = []
    for preference, candidates in ranks.items():
        for (a, rank_a), (b, rank_b) in combinations(sorted(candidates), 2):
            judged.append(((a, b), judges[preference], (rank_a > rank_b) - (rank_a < rank_b)))
    return judged


@transaction.atomic
def _store(project: Project, kind: str, aspect: str, level: Level, judged: list[Judged]) -> Agreement:
    alpha, low, high, units = alpha_with_interval(judged, level)
    row, _ = Agreement.objects.update_or_create(
        project=project,
        kind=kind,
        aspect=aspect,
        defaults={
            "alpha": alpha,
            "low": low,
            "high": high,
            "units": units,
            "raters": len({judge for _, judge, _ in judged}),
            "judgements": len(judged),
            "measured": timezone.now(),
        },
    )
    return row
