"""Kept counts are the rows' own, whatever is kept: by hour, taken back, erased, at the same time, by hand."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import TruncDay, TruncHour

from feedback import tasks
from feedback.counts import ALL_SERIES, RATINGS, judgements_that_stand
from feedback.models import Correction, Flag, Preference, Rating
from feedback.stats import version_quality
from inference.models import Completion, Prompt, Version
from inference.services.completions import finish_completion
from inference.stats import over_time, version_latency
from projects.models import CountedUntil, HourlyCount
from projects.services import hourly
from projects.services.hourly import count_again, count_hours, recount, sums
from tests.cast import Cast
from tests.feedback.judging import correction, flag, preference, rating

# Ten judgements and answers lie a quarter of an hour apart, before this.
NOW = datetime(2026, 5, 4, 12, 40, tzinfo=UTC)
STEP = timedelta(minutes=15)
STORED: list[Any] = [Prompt, Completion, Rating, Preference, Correction, Flag]


@pytest.fixture
def told(cast: Cast) -> Cast:
    """Of each kind ten, by two versions, over two hours and a half."""
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", path="v/2", digest="sha256:2")
    for number in range(10):
        _, both = cast.answered_prompt(f"Question {number}?", ["One.", "Two."], versions=[cast.v1, v2])
        cast.answer(both[0].prompt, state=Completion.State.FAILED, version=v2)
        for body in (
            rating(both[0], -1 if number % 3 else 1),
            preference(both, [[1, 2], [2, 1], [1, 1], None][number % 4]),
            correction(both[1]),
            flag(both[1]),
        ):
            assert cast.post("feedback", body).status_code == 201
    for model in STORED:
        ids = list(model.objects.order_by("pk").values_list("pk", flat=True))
        share = len(ids) // 10
        for place, pk in enumerate(ids):
            model.objects.filter(pk=pk).update(created=NOW - STEP * (10 - place // share))
    return cast


def numbers(cast: Cast, since: datetime | None) -> list[Any]:
    """All that pages make of the counts."""
    moment = since or NOW - timedelta(days=1)
    return [
        judgements_that_stand(cast.project, since),
        version_quality(cast.project, since),
        {series.name: sums(series, cast.project, since) for series in ALL_SERIES},
        [
            (row.version, row.completions, row.failed, row.tokens)
            for row in version_latency(cast.project, moment)
        ],
        over_time(cast.project, moment, TruncHour),
        over_time(cast.project, moment, TruncDay),
    ]


def keep(cast: Cast, until: datetime) -> bool:
    return count_hours(project=cast.project, series=ALL_SERIES, now=until + hourly.GRACE)


@pytest.mark.parametrize(
    "until",
    [
        [NOW],
        [NOW - timedelta(minutes=70)],  # within an hour
        [NOW - timedelta(hours=2), NOW - timedelta(minutes=100), NOW - timedelta(minutes=95), NOW],
        [NOW - timedelta(days=2)],
    ],
)
def test_what_is_kept_changes_no_number(told: Cast, until: list[datetime]) -> None:
    windows = [None, *(NOW - timedelta(minutes=minutes) for minutes in (1, 40, 55, 100, 127, 500))]
    live = [numbers(told, since) for since in windows]
    assert live[0][0] == {"rating": 10, "preference": 10, "correction": 10, "flag": 10}
    assert live[4][0]["rating"] == 6, "those of the last hundred minutes"
    for moment in until:
        assert keep(told, moment)
    assert [numbers(told, since) for since in windows] == live
    assert recount(project=told.project, series=ALL_SERIES) == []
    assert sums(RATINGS, told.garden) == {}


def test_kept_rows_are_not_read_again(told: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(told, NOW)
    Rating.objects.update(created=NOW - timedelta(days=400))  # by hand, where nobody looks any more
    assert judgements_that_stand(told.project)["rating"] == 10
    assert sums(RATINGS, told.project, NOW - timedelta(hours=1))["kitchen@v1"]["count"] == 2


def test_what_is_taken_back_is_subtracted(told: Cast) -> None:
    keep(told, NOW)
    first, second, third = Rating.objects.order_by("created")[:3]
    assert told.delete(f"feedback/{first.pk}").status_code == 200
    again = rating(second.completion, 1, supersedes=str(second.pk))
    assert told.post("feedback", again).status_code == 201
    won = Preference.objects.earliest("created")
    assert told.delete(f"feedback/{won.pk}").status_code == 200
    kept = numbers(told, None)
    assert kept[0] == {"rating": 9, "preference": 9, "correction": 10, "flag": 10}
    quality = {row.version: row for row in kept[1]}
    assert (quality["kitchen@v1"].ratings, quality["kitchen@v1"].battles) == (9, 9)
    assert quality["kitchen@v1"].wins == 2, "the first of its three wins was taken back"
    HourlyCount.objects.all().delete()
    CountedUntil.objects.all().delete()
    assert numbers(told, None) == kept
    assert third.is_usable


def test_an_answer_is_counted_when_it_has_ended(told: Cast) -> None:
    late = told.answer(Prompt.objects.earliest("created"), state=Completion.State.RUNNING)
    Completion.objects.filter(pk=late.pk).update(created=NOW - timedelta(hours=1))
    keep(told, NOW)
    assert CountedUntil.objects.get(project=told.project).until == NOW - timedelta(hours=1)
    done: dict[str, Any] = {
        "tokens_in": 1,
        "tokens_out": 7,
        "ttft_ms": 5.0,
        "gap_mean_ms": 1.0,
        "gap_p99_ms": 2.0,
    }
    assert finish_completion(
        completion=late,
        state=Completion.State.FINISHED,
        text="Late.",
        finish_reason="stop",
        total_ms=50.0,
        **done,
    )
    live = numbers(told, None)
    assert keep(told, NOW)
    assert numbers(told, None) == live
    assert {row.version: row.completions for row in version_latency(told.project, NOW - STEP * 20)} == {
        "kitchen@v1": 11, "kitchen@v2": 10,
    }  # fmt: skip


def remove_a_rating() -> None:
    row = Rating.objects.earliest("created")
    count_again(project=row.project, since=row.created)
    row.delete()


@pytest.mark.parametrize("when", ["before", "while it counts", "after"])
def test_what_goes_for_good_is_gone(told: Cast, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    keep(told, NOW - timedelta(hours=1))
    if when == "before":
        remove_a_rating()
    real: Callable[..., Any] = hourly._counted

    def counted(*given: Any) -> Any:
        rows = list(real(*given))
        if when == "while it counts" and given[0] is RATINGS:
            remove_a_rating()
        return rows

    monkeypatch.setattr(hourly, "_counted", counted)
    assert keep(told, NOW) == (when != "while it counts"), "what was counted before is not kept"
    monkeypatch.undo()
    if when == "after":
        remove_a_rating()
    assert judgements_that_stand(told.project)["rating"] == 9
    keep(told, NOW)
    assert judgements_that_stand(told.project)["rating"] == 9
    assert recount(project=told.project, series=ALL_SERIES) == []


def test_two_beats_keep_once(told: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = hourly._counted
    beats = Counter[str]()

    def counted(*given: Any) -> Any:
        beats["n"] += 1
        if beats["n"] == 1:
            assert keep(told, NOW)
        return real(*given)

    monkeypatch.setattr(hourly, "_counted", counted)
    assert not keep(told, NOW), "the other beat was first"
    assert judgements_that_stand(told.project)["rating"] == 10
    assert not keep(told, NOW), "nothing is new"


def test_rows_that_somebody_changed_by_hand_are_found(told: Cast) -> None:
    keep(told, NOW)
    moved = Rating.objects.earliest("created")
    Rating.objects.filter(pk=moved.pk).update(created=moved.created - timedelta(days=3))
    Flag.objects.all().delete()
    out = io.StringIO()
    call_command("recount", "--project", "kitchen", stdout=out)
    lines = out.getvalue().splitlines()
    assert "kitchen 2026-05-01 10:00 ratings kitchen@v1 count: kept 0, counted 1" in lines
    assert "kitchen 2026-05-04 10:00 ratings kitchen@v1 count: kept 4, counted 3" in lines
    assert lines[-1] == "kitchen: 9 kept counts were wrong."
    assert judgements_that_stand(told.project) == {
        "rating": 10,
        "preference": 10,
        "correction": 10,
        "flag": 0,
    }
    call_command("recount", stdout=out)
    assert out.getvalue().splitlines()[-1] == "kitchen: 0 kept counts were wrong."
    with pytest.raises(CommandError, match="no project pantry"):
        call_command("recount", "--project", "pantry")


def test_the_schedule_keeps_and_looks_again(told: Cast, caplog: pytest.LogCaptureFixture) -> None:
    live = numbers(told, None)
    tasks.count_hours()
    assert HourlyCount.objects.filter(project=told.project, series="battles").exists()
    assert numbers(told, None) == live
    Rating.objects.order_by("created")[:1].get().delete()
    with caplog.at_level(logging.WARNING):
        tasks.recount()
    assert "kitchen: a kept count was wrong: 2026-05-04 10:00 ratings" in caplog.text
    assert judgements_that_stand(told.project)["rating"] == 9
