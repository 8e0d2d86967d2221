"""The whole log as a stream, row for row what the list shows, as JSONL and as Parquet."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.utils import timezone

from feedback import export
from feedback.models import Rating
from feedback.services.judge import Judge
from feedback.services.record import record_rating
from tests.cast import Cast, error_of
from tests.feedback.judging import correction, flag, preference, rating


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    monkeypatch.setattr(export, "GROUP", 4)


def judged(cast: Cast) -> list[dict[str, Any]]:
    """Rows of every kind and state, as the list shows them, oldest first."""
    _, answers = cast.answered_prompt()
    for number in range(4):
        for one in (
            rating(answers[0], reasons=["clear"], comment="Gut \u00fc", seconds_spent=1.5),
            preference(answers, [1, 2], strength=2),
            preference(answers[::-1], subject="all bad"),
            correction(answers[0]),
            flag(answers[1]),
        ):
            body = {"subject": "", **one}
            made = cast.post("feedback", {**body, "subject": f"{body['subject']}{number}"})
            assert made.status_code == 201, made.content
    first = cast.get("feedback", {"kind": "rating"}).json()["items"][0]
    again = rating(answers[0], -1, subject=first["subject"], supersedes=first["id"])
    assert cast.post("feedback", again).status_code == 201
    cast.delete(f"feedback/{cast.get('feedback', {'kind': 'flag'}).json()['items'][0]['id']}")
    record_rating(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=answers[0].pk,
        value=1,
        source="ui",
        is_shown=True,
    )
    Rating.objects.filter(subject__in=["0", "1"]).update(created=timezone.now() - timedelta(hours=1))
    return list(reversed(cast.get("feedback", {"limit": 200}).json()["items"]))


def read(response: Any) -> bytes:
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content)


def test_lines_are_what_the_list_shows(cast: Cast):
    rows = judged(cast)
    cast.post("feedback", flag(cast.answered_prompt(project=cast.garden)[1][0]), key=cast.foreign_key)
    response = cast.get("feedback/export")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line) for line in read(response).splitlines()] == rows
    for row in (rows[0], rows[-1]):
        assert cast.get(f"feedback/{row['id']}").json() == row


def test_parquet_says_the_same(cast: Cast):
    rows = judged(cast)
    table = pq.read_table(io.BytesIO(read(cast.get("feedback/export", {"as": "parquet"}))))
    found = table.to_pylist()
    assert len(found) == len(rows)
    for row, one in zip(rows, found, strict=True):
        for name, value in row.items():
            seen = one[name]
            if name in ("created", "superseded", "retracted") and seen is not None:
                seen = seen.isoformat().replace("+00:00", "Z")
            assert seen == value, name
        assert all(one[name] is None for name in one.keys() - row.keys())
    empty = pq.read_table(
        io.BytesIO(read(cast.get("feedback/export", {"as": "parquet"}, key=cast.foreign_key)))
    )
    assert empty.num_rows == 0 and empty.schema.names == table.schema.names


def test_a_kind_and_a_stretch_of_time(cast: Cast):
    rows = judged(cast)
    middle = rows[8]["created"]

    def ids(**params: str) -> list[str]:
        lines = read(cast.get("feedback/export", params)).splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert ids(kind="flag") == [row["id"] for row in rows if row["kind"] == "flag"]
    assert ids(since=middle) == [row["id"] for row in rows if row["created"] >= middle]
    assert ids(until=middle) == [row["id"] for row in rows if row["created"] < middle]


@pytest.mark.parametrize("path", ["feedback", "feedback/export"])
@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"kind": "like"}, "invalid_value"),
        ({"since": "yesterday"}, "invalid_value"),
        ({"until": "2026-01-31"}, "invalid_value"),
        ({"order_by": "project__salt"}, "unknown_parameter"),
        ({"ordering": "-rater__password"}, "unknown_parameter"),
        ({"page_size": str(10**9)}, "unknown_parameter"),
        ({"api_key": "rk_x_y"}, "unknown_parameter"),
    ],
)
def test_wrong_parameters(cast: Cast, path: str, params: dict[str, str], code: str):
    refused = cast.get(path, params)
    assert (refused.status_code, error_of(refused)["code"]) == (422, code)
    assert error_of(refused)["param"] == next(iter(params))


def test_other_forms_are_refused_and_the_scope_is_needed(cast: Cast):
    assert error_of(cast.get("feedback/export", {"as": "csv"}))["param"] == "as"
    assert cast.get("feedback/export", key="").status_code == 401


def test_the_list_by_answer_rater_subject_and_source(cast: Cast):
    rows = judged(cast)
    answer = rows[-1]["completion_id"]

    def ids(**params: str) -> set[str]:
        return {row["id"] for row in cast.get("feedback", {"limit": "200", **params}).json()["items"]}

    def wanted(test: Any) -> set[str]:
        return {row["id"] for row in rows if test(row)}

    assert ids(rater="bob") == wanted(lambda row: row["rater"] == "bob") != set()
    assert ids(subject="2") == wanted(lambda row: row["subject"] == "2") != set()
    assert ids(source="ui") == ids(rater="bob")
    about = wanted(lambda row: answer in (row.get("completion_id"), *row.get("candidates", [])))
    assert ids(completion_id=answer) == about
    for name, value in (("completion_id", "../x"), ("source", "mail")):
        assert error_of(cast.get("feedback", {name: value}))["param"] == name
