"""What people said, by version: thumbs, battles, corrections and flags."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from feedback.counts import BATTLES, CORRECTIONS, FLAGS, RATINGS
from projects.models import Project
from projects.services.hourly import Sums, sums_of

QUALITY = (RATINGS, BATTLES, CORRECTIONS, FLAGS)
_NOTHING: defaultdict[str, float] = defaultdict(float)


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


def version_quality(project: Project, since: datetime | None = None) -> list[VersionQuality]:
    """A row a version that was judged, ever or since then, by its label; the most judged first."""
    return quality_of(sums_of(QUALITY, project, since))


def quality_of(counted: Mapping[str, Mapping[str, Sums]]) -> list[VersionQuality]:
    """The same from what `sums_of` counted of QUALITY."""
    ratings, battles, corrections, flags = (counted[series.name] for series in QUALITY)
    rows = []
    for version in {*ratings, *battles, *corrections, *flags}:
        rated, fought = ratings.get(version, _NOTHING), battles.get(version, _NOTHING)
        corrected, flagged = corrections.get(version, _NOTHING), flags.get(version, _NOTHING)
        if not any(one["count"] for one in (rated, fought, corrected, flagged)):
            continue  # all of it was taken back
        thumbs, count = int(rated["thumbs"]), int(fought["count"])
        win_rate = _share(fought["wins"] + fought["ties"] / 2, count)
        low, high = wilson(win_rate, count) if win_rate is not None else (None, None)
        rows.append(
            VersionQuality(
                version=version,
                ratings=thumbs,
                up_share=_share(rated["up"], thumbs),
                battles=count,
                wins=int(fought["wins"]),
                ties=int(fought["ties"]),
                win_rate=win_rate,
                win_rate_low=low,
                win_rate_high=high,
                corrections=int(corrected["count"]),
                flags=int(flagged["count"]),
            )
        )
    return sorted(rows, key=lambda row: (-row.battles - row.ratings, row.version))


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a share of n."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
