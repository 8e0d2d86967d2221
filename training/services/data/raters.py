"""Who counts, and how much, as of a cut-off: quarantine, weights, caps, and what each one's scale means."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Count, F, Sum, TextField
from django.db.models.functions import Cast

from feedback.models import Rating
from feedback.services.raters import excluded_raters, rater_weights
from inference.models import Prompt
from projects.models import Edition, Project, User

THUMBS = "thumbs"
# A rater of few ratings is taken to use the scale as all do; this many ratings of all go into the mean.
PRIOR_RATINGS = 5
# A rating this close to the rater's own middle, in standard deviations of all, says neither.
NEUTRAL = 0.5


@dataclass
class Raters:
    """`weights` of judges other than 1; `last` is each capped judge's last judgement that still counts."""

    excluded: frozenset[str] = frozenset()
    weights: Mapping[str, float] = field(default_factory=dict)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    last: Mapping[str, str] = field(default_factory=dict)

    def weight(self, judge: str) -> float:
        return self.weights.get(judge, 1.0)

    def is_light(self, judge: str, least: float) -> bool:
        weight = self.weights.get(judge, 1.0)
        return weight < least or weight <= 0

    def score(self, judge: str, aspect: str, value: int) -> float:
        """What a rating says: a thumb is -1 or 1; on a scale, how far it is from this rater's own middle."""
        scale = self.scales.get(aspect)
        return float(value) if scale is None else scale.score(judge, value)


@dataclass
class Scale:
    """One aspect: its ratings by all, and each judge's, as integer sums (so that databases agree)."""

    count: int = 0
    total: int = 0
    squares: int = 0
    by_judge: dict[str, tuple[int, int]] = field(default_factory=dict)  # judge -> (count, total)

    def score(self, judge: str, value: int) -> float:
        mean = self.total / self.count
        variance = self.squares / self.count - mean * mean
        if variance <= 0:
            return 0.0  # everybody says the same
        count, total = self.by_judge[judge]
        own = (total + PRIOR_RATINGS * mean) / (count + PRIOR_RATINGS)
        return float((value - own) / variance**0.5)


def read_raters(project: Project, cutoff: datetime) -> Raters:
    """Quarantine, weights and scales as they stood at the cut-off."""
    return Raters(
        excluded=frozenset(excluded_raters(project, cutoff)),
        weights=rater_weights(project, cutoff),
        scales=_scales(project, cutoff),
    )


def judge_keys(names: list[str]) -> list[str]:
    """Judges as rows name them; a member's name stands for `user:<id>`, an unknown one for nobody."""
    members = dict(User.objects.filter(username__in=names).values_list("username", "pk"))
    return [f"user:{members[name]}" if name in members else name for name in names]


def last_within_cap(streams: list[Iterator[tuple[str, str]]], cap: int) -> dict[str, str]:
    """Judge -> the id of their cap-th judgement, of those who made so many; streams of (id, judge) by id."""
    seen: Counter[str] = Counter()
    last = {}
    for id_, judge in heapq.merge(*streams):
        seen[judge] += 1
        if seen[judge] == cap:
            last[judge] = id_
    return last


def _scales(project: Project, cutoff: datetime) -> dict[str, Scale]:
    """Every aspect with a scale, over all that stood at the cut-off, whatever a dataset filters."""
    rows = (
        Rating.objects.before(cutoff)
        .filter(project=project, completion__prompt__split=Prompt.Split.TRAIN)
        .exclude(aspect__in=_thumbs(project, cutoff))
        .order_by()
        .values_list("aspect", "judge")
        .annotate(n=Count("id"), total=Sum("value"), squares=Sum(F("value") * F("value")))
    )
    scales: dict[str, Scale] = defaultdict(Scale)
    for aspect, judge, n, total, squares in rows.iterator():
        scale = scales[aspect]
        scale.count += n
        scale.total += total
        scale.squares += squares
        scale.by_judge[judge] = (n, total)
    return dict(scales)


def _thumbs(project: Project, cutoff: datetime) -> list[str]:
    """Aspects that are thumbs by the edition of the cut-off: their values speak for themselves."""
    edition = Edition.objects.filter(project=project, created__lte=cutoff).order_by("-number").first()
    aspects = edition.form["aspects"] if edition else []
    return [THUMBS, *(aspect["key"] for aspect in aspects if aspect["kind"] == "thumbs")]


def as_text(name: str) -> Any:
    """An id as text: databases hand ids out in two forms, and text is made without an object a row."""
    return Cast(name, TextField())
