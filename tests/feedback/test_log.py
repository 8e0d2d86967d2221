"""The log of all judgements, batches of them, and what the numbers make of both."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from feedback.models import Rating
from feedback.services.batch import Batch
from feedback.services.judge import Judge
from feedback.services.record import record_rating
from feedback.stats import version_quality
from inference.models import Version
from projects.ids import uuid7
from tests.cast import Cast, error_of
from tests.feedback.judging import correction, flag, preference, rating


# --- batches ---------------------------------------------------------------------------------------------
def test_each_item_of_a_batch_stands_or_falls_by_itself(cast: Cast):
    _, answers = cast.answered_prompt()
    replay = rating(answers[0], id=str(uuid7()), subject="r")
    items = [
        rating(answers[0]),
        rating(answers[0]),
        {"kind": "rating"},
        preference(answers, [1, 2]),
        preference([answers[0], answers[0]], [1, 2]),
        replay,
        replay,
        rating(answers[1], completion_id=str(uuid7())),
        None,
        correction(answers[1]),
    ]
    response = cast.post("feedback/batch", {"items": items})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [one["status"] for one in results] == [201, 409, 422, 201, 422, 201, 200, 404, 422, 201]
    assert results[1]["error"]["id"] == results[0]["id"]
    assert results[5]["id"] == results[6]["id"] == replay["id"]
    assert all(
        one["error"]["request_id"] == response.headers["X-Request-Id"] for one in results if "error" in one
    )
    assert len(cast.get("feedback").json()["items"]) == 4


def test_five_hundred_at_once_and_not_one_more(cast: Cast):
    _, answers = cast.answered_prompt()
    items = [rating(answers[0], subject=f"user-{number}") for number in range(501)]
    refused = cast.post("feedback/batch", {"items": items})
    assert (refused.status_code, error_of(refused)["param"]) == (422, "items")
    assert not Rating.objects.exists()
    taken = cast.post("feedback/batch", {"items": items[:500]})
    assert [one["status"] for one in taken.json()["results"]] == [201] * 500
    assert Rating.objects.count() == 500


def test_a_hundred_cost_a_handful_of_queries(cast: Cast, django_assert_max_num_queries: Any):
    _, answers = cast.answered_prompt()
    items = [
        one
        for number in range(25)
        for one in (
            rating(answers[0], subject=str(number), id=str(uuid7())),
            preference(answers, [1, 2], subject=str(number)),
            correction(answers[0], subject=str(number)),
            flag(answers[0], subject=str(number)),
        )
    ]
    with django_assert_max_num_queries(40):  # a dozen of them set aside the answer that was flagged
        taken = cast.post("feedback/batch", {"items": items})
    assert {one["status"] for one in taken.json()["results"]} == {201}
    again = cast.post("feedback/batch", {"items": items})
    assert [one["status"] for one in again.json()["results"]] == [200, 409, 409, 409] * 25


def test_a_batch_reads_no_judgements_of_the_answers_it_is_about(cast: Cast):
    """An answer may have any number of them, and a batch must not take longer for each."""
    _, answers = cast.answered_prompt()
    cast.post("feedback", rating(answers[0], subject="before"))
    items = [rating(answers[0], subject=subject) for subject in "abc"]
    with CaptureQueriesContext(connection) as queries:
        taken = cast.post("feedback/batch", {"items": items})
    assert [one["status"] for one in taken.json()["results"]] == [201] * 3
    assert not [query for query in queries if 'FROM "feedback_rating"' in query["sql"]]


def test_the_order_of_a_batch_is_what_counts(cast: Cast):
    _, answers = cast.answered_prompt()
    first, second = str(uuid7()), str(uuid7())
    items = [
        rating(answers[0], 1, id=first),
        rating(answers[0], -1, id=second, supersedes=first),
        rating(answers[0], 1),
        rating(answers[0], 1, id=first),
        flag(answers[0], id=first),
        rating(answers[0], 1, supersedes=first),
    ]
    results = cast.post("feedback/batch", {"items": items}).json()["results"]
    assert [one["status"] for one in results] == [201, 201, 409, 200, 422, 409]
    assert results[2]["error"]["id"] == second
    assert list(Rating.objects.usable().values_list("value", flat=True)) == [-1]


def test_somebody_faster_than_a_batch(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    _, answers = cast.answered_prompt()
    took = Batch.flush
    others: list[str] = []

    def late(self: Batch) -> None:
        if not others:
            monkeypatch.setattr(Batch, "flush", took)
            others.append("made")
            body = rating(answers[0], -1, subject="b")
            others.append(cast.post("feedback", body).json()["id"])
        took(self)

    monkeypatch.setattr(Batch, "flush", late)
    items = [rating(answers[0], subject=subject) for subject in "abc"]
    results = cast.post("feedback/batch", {"items": items}).json()["results"]
    assert [one["status"] for one in results] == [201, 409, 201]
    assert results[1]["error"]["id"] == others[1]
    assert Rating.objects.count() == 3


@pytest.mark.parametrize(
    "body", [{}, {"items": []}, {"items": None}, {"items": "x"}, [], {"items": [1], "x": 1}]
)
def test_what_is_no_batch(cast: Cast, body: Any):
    assert cast.post("feedback/batch", body).status_code == 422


# --- the log ---------------------------------------------------------------------------------------------
def test_the_log_holds_all_four_kinds_newest_first_page_by_page(cast: Cast):
    _, answers = cast.answered_prompt()
    made = []
    for number in range(3):
        for one in (
            rating(answers[0]),
            preference(answers, [1, 2]),
            correction(answers[0]),
            flag(answers[0]),
        ):
            response = cast.post("feedback", {**one, "subject": f"user-{number}"})
            made.append(response.json())
    found: list[Any] = []
    params: dict[str, Any] = {"limit": 5}
    while params:
        page = cast.get("feedback", params).json()
        found += page["items"]
        params = {"limit": 5, "cursor": page["next"]} if page["next"] else {}
    assert found == made[::-1]
    only = cast.get("feedback", {"kind": "flag"}).json()["items"]
    assert only == [one for one in found if one["kind"] == "flag"]
    assert cast.get("feedback", key=cast.foreign_key).json() == {"items": [], "next": None}
    assert error_of(cast.get("feedback", {"kind": "like"}))["param"] == "kind"


def test_judgements_of_the_same_moment_are_all_listed(cast: Cast):
    _, answers = cast.answered_prompt()
    items = [one(answers[0], subject=f"s{n}") for n in range(4) for one in (rating, flag)]
    cast.post("feedback/batch", {"items": items})
    moment = timezone.now()
    Rating.objects.update(created=moment)
    found: list[str] = []
    params: dict[str, Any] = {"limit": 1}
    while params:
        page = cast.get("feedback", params).json()
        found += [one["id"] for one in page["items"]]
        params = {"limit": 1, "cursor": page["next"]} if page["next"] else {}
    assert len(found) == len(set(found)) == 8


def test_a_members_judgement_is_listed_with_their_name(cast: Cast):
    _, answers = cast.answered_prompt()
    record_rating(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=answers[0].pk,
        value=-1,
        source="ui",
        is_shown=True,
    )
    [row] = cast.get("feedback").json()["items"]
    assert (row["rater"], row["source"], row["value"]) == ("bob", "ui", -1)


def test_a_page_of_the_log_takes_a_few_queries(cast: Cast, django_assert_max_num_queries: Any):
    _, answers = cast.answered_prompt()
    for number in range(10):
        items = [rating(answers[0]), preference(answers, [1, 2]), flag(answers[1])]
        cast.post("feedback/batch", {"items": [{**one, "subject": str(number)} for one in items]})
    with django_assert_max_num_queries(8):
        assert len(cast.get("feedback").json()["items"]) == 30


# --- the numbers -----------------------------------------------------------------------------------------
def test_quality_by_version(cast: Cast):
    v1 = cast.v1
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", digest="sha256:x")
    since = timezone.now() - timedelta(hours=1)

    def battle(text: str, ranks: list[int] | None, versions: tuple[Version, ...] = (v1, v2)) -> Any:
        _, answers = cast.answered_prompt(
            text, [f"{text} {n}" for n in range(len(versions))], versions=versions
        )
        assert cast.post("feedback", preference(answers, ranks)).status_code == 201
        return answers

    [loser, winner] = battle("v2 wins", [2, 1])
    battle("v1 wins", [1, 2])
    battle("a tie", [1, 1])
    battle("both bad", None)
    battle("two of v1 against one of v2", [1, 3, 2], (v1, v1, v2))
    battle("v1 against itself", [1, 2], (v1, v1))
    for completion, value, subject in [
        (winner, 1, "a"),
        (winner, 1, "b"),
        (winner, -1, "c"),
        (loser, -1, "a"),
    ]:
        cast.post("feedback", rating(completion, value, subject=subject))
    gone = cast.post("feedback", rating(loser, 1, subject="z")).json()["id"]
    cast.delete(f"feedback/{gone}")
    cast.post("feedback", correction(loser))
    cast.post("feedback", flag(winner))

    first, second = (row.as_dict() for row in version_quality(cast.project, since))
    # Wilson's interval for 3 of 6 (each tie is half a win).
    for one in (first, second):
        interval = one.pop("win_rate_low"), one.pop("win_rate_high")
        assert interval == pytest.approx((0.188, 0.812), abs=0.001)
    assert first == {
        "version": "kitchen@v2", "ratings": 3, "up_share": 2 / 3, "corrections": 0, "flags": 1,
        "battles": 6, "wins": 2, "ties": 2, "win_rate": 0.5,
    }  # fmt: skip
    assert second == {
        "version": "kitchen@v1", "ratings": 1, "up_share": 0.0, "corrections": 1, "flags": 0,
        "battles": 6, "wins": 2, "ties": 2, "win_rate": 0.5,
    }  # fmt: skip
    assert version_quality(cast.project, timezone.now()) == []
    assert version_quality(cast.garden, since) == []
