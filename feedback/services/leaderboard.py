"""Measures the leaderboard: which versions people prefer, how surely, and whether length explains it."""

from __future__ import annotations

import hashlib
from typing import Any

from django.db.models import Avg, Count, F, Max, Q
from django.db.models.functions import Length
from django.utils import timezone

from feedback.models import Candidate, Leaderboard, Preference
from feedback.ranking import Tally, rank_versions
from feedback.services.raters import excluded_raters, rater_weights
from inference.artifact import canonical_json
from inference.services.versions import current
from projects.models import Project

_OTHER = "preference__candidates"


def measure_leaderboards() -> int:
    """Measure every project whose votes changed since the last time. Returns how many there were."""
    voted = Project.objects.filter(preferences__isnull=False).distinct()
    return sum(measure_leaderboard(project) for project in voted)


def measure_leaderboard(project: Project) -> bool:
    """Count and rank; False when nothing changed since it was measured."""
    now = timezone.now()
    excluded, weights = excluded_raters(project, now), rater_weights(project, now)
    reference = current(project).champion.label
    votes = Preference.objects.usable().filter(project=project)
    counted = votes.aggregate(count=Count("pk"), last=Max("created"))
    seen = [counted["count"], str(counted["last"]), reference, sorted(excluded), weights]
    fingerprint = hashlib.sha256(canonical_json(seen)).hexdigest()
    if Leaderboard.objects.filter(project=project, fingerprint=fingerprint).exists():
        return False
    tallies = _tallies(project, set(excluded))
    places = rank_versions(tallies, reference=reference, weights=weights)
    lengths = _lengths(project, set(excluded))
    Leaderboard.objects.update_or_create(
        project=project,
        defaults={
            "fingerprint": fingerprint,
            "places": [{**place.as_dict(), "characters": lengths.get(place.version)} for place in places],
            "numbers": {
                "reference": reference,
                "votes": round(sum(tally.votes for tally in tallies)),
                "raters": len({tally.judge for tally in tallies}),
                "longer_won": _longer_won(project, set(excluded)),
            },
            "measured": now,
        },
    )
    return True


def _pairs(project: Project, excluded: set[str]) -> Any:
    """Each pair of answers by different versions in one usable preference, once."""
    return (
        Candidate.objects.filter(
            preference__project=project, preference__retracted=None, preference__superseded=None
        )
        .exclude(preference__judge__in=excluded)
        .annotate(
            first=F("completion__version_label"),
            second=F(f"{_OTHER}__completion__version_label"),
            other_rank=F(f"{_OTHER}__rank"),
        )
        .filter(first__lt=F("second"))
        .order_by()
    )


def _tallies(project: Project, excluded: set[str]) -> list[Tally]:
    rows = (
        _pairs(project, excluded)
        .values("first", "second", judge=F("preference__judge"))
        .annotate(
            first_wins=Count("pk", filter=Q(rank__lt=F("other_rank"))),
            ties=Count("pk", filter=Q(rank=F("other_rank")) | Q(rank=None) | Q(other_rank=None)),
            second_wins=Count("pk", filter=Q(rank__gt=F("other_rank"))),
        )
    )
    return [Tally(**row) for row in rows.iterator()]


def _longer_won(project: Project, excluded: set[str]) -> float | None:
    """The share of decided pairs in which the longer answer won; 0.5 where length plays no role."""
    decided = (
        _pairs(project, excluded)
        .annotate(length=Length("completion__text"), other_length=Length(f"{_OTHER}__completion__text"))
        .exclude(length=F("other_length"))
    )
    won = Q(rank__lt=F("other_rank"), length__gt=F("other_length")) | Q(
        rank__gt=F("other_rank"), length__lt=F("other_length")
    )
    lost = Q(rank__lt=F("other_rank"), length__lt=F("other_length")) | Q(
        rank__gt=F("other_rank"), length__gt=F("other_length")
    )
    counts = decided.aggregate(won=Count("pk", filter=won), lost=Count("pk", filter=lost))
    return counts["won"] / (counts["won"] + counts["lost"]) if counts["won"] + counts["lost"] else None


def _lengths(project: Project, excluded: set[str]) -> dict[str, float]:
    """Label -> mean characters of its judged answers."""
    rows = (
        Candidate.objects.filter(
            preference__project=project, preference__retracted=None, preference__superseded=None
        )
        .exclude(preference__judge__in=excluded)
        .order_by()
        .values(label=F("completion__version_label"))
        .annotate(characters=Avg(Length("completion__text")))
    )
    return {row["label"]: row["characters"] for row in rows}
