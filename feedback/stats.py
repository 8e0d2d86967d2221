"""What people said, by version and by day: thumbs, battles and how many judgements came."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from django.db.models import Count, F, Q
from django.db.models.functions import TruncDate

from feedback.models import Candidate, Correction, Flag, Preference, Rating
from projects.models import Project

# Shares are of the newest so many judgements of a kind: more would move them by a point.
MOST = 5_000
KINDS = {"ratings": Rating, "preferences": Preference, "corrections": Correction, "flags": Flag}


@dataclass(frozen=True, kw_only=True)
class VersionQuality:
    """What stands: neither superseded nor retracted. Shares are 0 to 1, None without a judgement."""

    version: str
    ratings: int  # thumbs
    up_share: float | None
    battles: int  # pairs with an answer of another version
    wins: int
    ties: int  # equal ranks, or both bad
    win_rate: float | None  # ties count half
    win_rate_low: float | None  # 95 % Wilson interval over battles, as if each were another rater's
    win_rate_high: float | None
    corrections: int
    flags: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Day:
    """Judgements made on one day in UTC or the pages' time zone, also those taken back since."""

    day: date
    ratings: int = 0
    preferences: int = 0
    corrections: int = 0
    flags: int = 0

    @property
    def total(self) -> int:
        return self.ratings + self.preferences + self.corrections + self.flags


def version_quality(project: Project, since: datetime) -> list[VersionQuality]:
    """A row a version that was judged since then, by its label; the most judged first.

    Of each kind the newest MOST judgements count.
    """
    thumbs = _counts(Rating, project, since, up=Count("pk", filter=Q(value__gt=0)))
    corrections = _counts(Correction, project, since)
    flags = _counts(Flag, project, since)
    battles = _battles(project, since)
    rates = {
        version: _share(counts["wins"] + counts["ties"] / 2, counts["count"])
        for version, counts in battles.items()
    }
    intervals = {
        version: wilson(rate, battles[version]["count"])
        for version, rate in rates.items()
        if rate is not None
    }
    rows = [
        VersionQuality(
            version=version,
            ratings=thumbs[version]["count"],
            up_share=_share(thumbs[version]["up"], thumbs[version]["count"]),
            battles=battles[version]["count"],
            wins=battles[version]["wins"],
            ties=battles[version]["ties"],
            win_rate=rates.get(version),
            win_rate_low=intervals.get(version, (None, None))[0],
            win_rate_high=intervals.get(version, (None, None))[1],
            corrections=corrections[version]["count"],
            flags=flags[version]["count"],
        )
        for version in {*thumbs, *corrections, *flags, *battles}
    ]
    return sorted(rows, key=lambda row: (-row.battles - row.ratings, row.version))


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a share of n."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def judgements_per_day(project: Project, since: datetime) -> list[Day]:
    """The days that had any, oldest first."""
    days: defaultdict[date, dict[str, int]] = defaultdict(dict)
    for name, model in KINDS.items():
        made = model.objects.filter(project=project, created__gte=since).order_by()
        for row in made.annotate(day=TruncDate("created")).values("day").annotate(count=Count("pk")):
            days[row["day"]][name] = row["count"]
    return [Day(day=day, **counts) for day, counts in sorted(days.items())]


def _counts(
    model: type[Rating] | type[Correction] | type[Flag], project: Project, since: datetime, **more: Count
) -> defaultdict[str, Counter[str]]:
    """Label of the version -> {"count": judgements, ...}."""
    judged = model.objects.usable().filter(project=project, created__gte=since)
    if model is Rating:
        judged = judged.filter(aspect="thumbs")
    judged = model.objects.order_by().filter(pk__in=judged.order_by("-created").values("pk")[:MOST])
    label = F("completion__version_label")
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in judged.values(label=label).annotate(count=Count("pk"), **more):
        found[row["label"]] = Counter({name: row[name] for name in ("count", *more)})
    return found


def _battles(project: Project, since: datetime) -> defaultdict[str, Counter[str]]:
    """Label -> count, wins and ties over all pairs of answers by different versions in one preference."""
    newest = Preference.objects.usable().filter(project=project, created__gte=since).order_by("-created")
    rows = Candidate.objects.order_by().filter(preference__in=newest.values("pk")[:MOST])
    sides: defaultdict[Any, list[tuple[int | None, str]]] = defaultdict(list)
    for preference, rank, label in rows.values_list("preference_id", "rank", "completion__version_label"):
        sides[preference].append((rank, label))
    # Paired here: the database read a million rows for the other side of ten thousand.
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for shown in sides.values():
        for rank, label in shown:
            for other, other_label in shown:
                if label != other_label:
                    won = rank is not None and other is not None and rank < other
                    found[label].update(count=1, wins=int(won), ties=int(rank == other))
    return found


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
