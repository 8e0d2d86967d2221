"""What two versions did live, side by side: their answers, and what people said of them. Reads only.

Live is an answer to somebody's own question, in a conversation or for a program. Answers of the gate and of
battles are not: those ask both versions on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from feedback.models import Flag, Preference, Rating
from inference.models import Completion, Version
from training.services.gate import battle_score
from training.services.guards import is_looping

# Of each version, the newest. A guard that is broken shows in far fewer.
MAX_ANSWERS = 2000
MAX_JUDGEMENTS = 20_000


@dataclass(frozen=True)
class LiveAnswer:
    """One answer that is over. Times are milliseconds."""

    is_candidate: bool
    created: datetime
    failed: bool
    degenerate: bool  # says nothing, or repeats itself
    complained: bool  # a thumb down or a flag
    ttft_ms: float | None = None
    gap_ms: float | None = None  # between tokens, the mean


@dataclass(frozen=True)
class Thumb:
    """`cluster` is what the canary's share goes by: a conversation, a program's end user, else a question."""

    is_candidate: bool
    cluster: str
    is_up: bool
    created: datetime


@dataclass
class Arms:
    """Both versions' answers and thumbs, in the order in which they came, and votes between the two."""

    answers: list[LiveAnswer] = field(default_factory=list)
    thumbs: list[Thumb] = field(default_factory=list)
    battles: list[tuple[str, float]] = field(default_factory=list)  # (question, the candidate's score)


def read_arms(*, candidate: Version, champion: Version, since: datetime) -> Arms:
    """What they did and what was said of it since then."""
    answers = [
        answer
        for version in (candidate, champion)
        for answer in _answers(version, version == candidate, since)
    ]
    thumbs = [
        thumb for version in (candidate, champion) for thumb in _thumbs(version, version == candidate, since)
    ]
    return Arms(
        answers=sorted(answers, key=lambda answer: answer.created),
        thumbs=sorted(thumbs, key=lambda thumb: thumb.created),
        battles=_battles(candidate, champion, since),
    )


def _live(version: Version, since: datetime) -> QuerySet[Completion]:
    return Completion.objects.filter(
        Q(prompt__conversation__isnull=False) | Q(api_key__isnull=False),
        project=version.project_id,
        version=version,
        created__gte=since,
    )


def _answers(version: Version, is_candidate: bool, since: datetime) -> list[LiveAnswer]:
    down = Rating.objects.usable().filter(completion=OuterRef("pk"), aspect="thumbs", value__lt=0)
    flagged = Flag.objects.usable().filter(completion=OuterRef("pk"))
    over = (Completion.State.FINISHED, Completion.State.FAILED)
    rows = (
        _live(version, since)
        .filter(state__in=over)
        .annotate(complained=Exists(down) | Exists(flagged))
        .order_by("-created")
        .values_list("created", "state", "text", "complained", "ttft_ms", "gap_mean_ms")[:MAX_ANSWERS]
    )
    answers = []
    for created, state, text, complained, ttft_ms, gap_ms in rows:
        failed = state == Completion.State.FAILED
        degenerate = not failed and (not text.strip() or is_looping(text))
        answers.append(
            LiveAnswer(is_candidate, created, failed, degenerate, bool(complained), ttft_ms, gap_ms)
        )
    return answers


def _thumbs(version: Version, is_candidate: bool, since: datetime) -> list[Thumb]:
    rows = (
        Rating.objects.usable()
        .filter(completion__in=_live(version, since), aspect="thumbs")
        .order_by("-created")
        .values_list(
            "created", "value", "completion__subject", "completion__prompt__conversation",
            "completion__prompt",
        )[:MAX_JUDGEMENTS]
    )  # fmt: skip
    return [
        Thumb(is_candidate, str(conversation or subject or prompt), value > 0, created)
        for created, value, subject, conversation, prompt in rows
    ]


def _battles(candidate: Version, champion: Version, since: datetime) -> list[tuple[str, float]]:
    """Comparisons of the two, wherever they were made."""
    sides = (candidate.id, champion.id)
    rows = (
        Preference.objects.usable()
        .filter(
            project=candidate.project_id,
            created__gte=since,
            candidates__completion__version_id=candidate.id,
        )
        .distinct()
        .order_by("created")
        .prefetch_related("candidates__completion")[:MAX_JUDGEMENTS]
    )
    battles = []
    for row in rows:
        ranks: dict[UUID | None, int] = {}
        for shown in row.candidates.all():
            version_id = shown.completion.version_id
            if version_id in sides:
                ranks[version_id] = min(shown.rank or 0, ranks.get(version_id, shown.rank or 0))
        if len(ranks) == 2:
            score = 0.5 if row.all_bad else battle_score(ranks[candidate.id], ranks[champion.id])
            battles.append((str(row.prompt_id), score))
    return battles
