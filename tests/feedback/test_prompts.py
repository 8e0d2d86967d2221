"""Prompts by REST: imported as lines, found again, split once and for all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings

from inference.models import Conversation, Prompt
from projects.ids import uuid7
from tests.cast import Cast, error_of


def line(text: str, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()


def send(cast: Cast, *lines: bytes, end: bytes = b"\n", **more: Any) -> Any:
    return cast.post("prompts", end.join(lines), content_type="application/x-ndjson", **more)


def test_import_and_import_again(cast: Cast):
    lines = [line(f"Question {number}?", external_id=f"q{number}", tags=["eggs"]) for number in range(20)]
    first = send(cast, *lines, b"")
    assert (first.status_code, first.json()) == (
        200,
        {"created": 20, "existing": 0, "failed": 0, "errors": []},
    )
    again = send(cast, *lines, line("A new one?"), end=b"\r\n")
    assert again.json() == {"created": 1, "existing": 20, "failed": 0, "errors": []}
    rows = Prompt.objects.filter(project=cast.project)
    assert rows.count() == 21
    assert {row.split for row in rows} == {"train", "gate"}
    assert rows.get(external_id="q7").tags == ["eggs"]


def test_each_wrong_line_is_named_and_the_others_are_taken(cast: Cast):
    response = send(
        cast,
        line("Good?"),
        b"",
        b"{",
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": " "}]}',
        b'{"messages": [{"role": "pirate", "content": "Arr"}]}',
        b'{"messages": [{"role": "assistant", "content": "Hello"}]}',
        b'{"messages": [{"role": "user", "content": "a", "name": "b"}]}',
        line("Extra?", extra=1),
        line("Tags?", tags=["x"] * 21),
        line("Named?", external_id=""),
        b"[" * 1_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b"\xff\xfe",
        b"null",
        b'"text"',
        line("x" * 100_000),
        line("y" * (settings.MAX_BODY_BYTES + 10)),
        line("Good too?"),
    )
    assert response.status_code == 200
    answer = response.json()
    assert (answer["created"], answer["existing"], answer["failed"]) == (2, 0, 16)
    assert [(error["line"], error["code"]) for error in answer["errors"]] == [
        (3, "malformed_body"),
        (4, "invalid_value"),
        (5, "empty_message"),
        (6, "invalid_value"),
        (7, "invalid_value"),
        (8, "unknown_field"),
        (9, "unknown_field"),
        (10, "invalid_value"),
        (11, "invalid_value"),
        (12, "nested_too_deeply"),
        (13, "invalid_text"),
        (14, "malformed_body"),
        (15, "invalid_value"),
        (16, "invalid_value"),
        (17, "context_length_exceeded"),
        (18, "line_too_long"),
    ]
    assert all(error["message"] for error in answer["errors"])


def test_a_mark_before_the_first_line_and_mixed_ends_are_read(cast: Cast):
    mark = b"\xef\xbb\xbf"
    raw = mark + line("One?") + b"\r\n\r\n" + line("Two?") + b"\n" + mark + line("Three?") + b"\r\n{\n"
    answer = send(cast, raw + line("Four?")).json()
    assert answer["created"] == 3
    # A mark in the middle is no beginning of a file.
    assert [(one["line"], one["code"]) for one in answer["errors"]] == [
        (4, "malformed_body"),
        (5, "malformed_body"),
    ]


def test_only_the_first_hundred_errors_are_kept(cast: Cast):
    answer = send(cast, *[b"{"] * 250).json()
    assert (answer["failed"], len(answer["errors"])) == (250, 100)


@pytest.mark.parametrize("raw", [b"", b"\n", b"\r\n\n\n"])
def test_a_file_without_a_line_is_refused(cast: Cast, raw: bytes):
    response = cast.post("prompts", raw, content_type="application/x-ndjson")
    assert (response.status_code, error_of(response)["code"]) == (422, "empty_batch")


def test_an_external_id_names_one_prompt(cast: Cast):
    answer = send(cast, line("One?", external_id="a"), line("Two?", external_id="a")).json()
    assert [(error["line"], error["code"]) for error in answer["errors"]] == [(2, "external_id_taken")]
    # Another project may use the same name, and the same messages.
    assert send(cast, line("One?", external_id="a"), key=cast.foreign_key).json()["created"] == 1


def test_found_by_split_ids_and_external_id(cast: Cast):
    send(cast, *[line(f"Question {number}?", external_id=f"q{number}") for number in range(12)])
    send(cast, line("Theirs?", external_id="q0"), key=cast.foreign_key)
    every = cast.get("prompts").json()["items"]
    assert len(every) == 12
    assert [one["id"] for one in every] == sorted((one["id"] for one in every), reverse=True)
    gate = cast.get("prompts", {"split": "gate"}).json()["items"]
    assert {one["split"] for one in gate} == {"gate"} and 0 < len(gate) < 12
    wanted = {every[3]["id"], every[5]["id"]}
    theirs = str(Prompt.objects.get(project=cast.garden).pk)
    ids = ",".join([*wanted, theirs, str(uuid7())])
    assert {one["id"] for one in cast.get("prompts", {"ids": ids}).json()["items"]} == wanted
    [named] = cast.get("prompts", {"external_id": "q0"}).json()["items"]
    assert named["messages"] == [{"role": "user", "content": "Question 0?"}]
    assert cast.get(f"prompts/{named['id']}").json() == named
    assert named["created"].endswith("Z")
    for unknown in (theirs, uuid7(), "x", "../feedback"):
        assert cast.get(f"prompts/{unknown}").status_code == 404


def test_every_page_and_nothing_twice(cast: Cast):
    send(cast, *[line(f"Question {number}?") for number in range(11)])
    found: list[str] = []
    params: dict[str, Any] = {"limit": 3}
    for size in (3, 3, 3, 2):
        page = cast.get("prompts", params).json()
        assert len(page["items"]) == size
        found += [one["id"] for one in page["items"]]
        send(cast, line(f"Came in between {len(found)}?"))  # newer, so on no later page
        params = {"limit": 3, "cursor": page["next"]}
    assert page["next"] is None
    assert len(set(found)) == 11 and found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("params", "param", "code"),
    [
        ({"limit": "0"}, "limit", "invalid_value"),
        ({"limit": "201"}, "limit", "invalid_value"),
        ({"limit": str(10**9)}, "limit", "invalid_value"),
        ({"limit": "-1"}, "limit", "invalid_value"),
        ({"limit": "x"}, "limit", "invalid_value"),
        ({"limit": "٣"}, "limit", "invalid_value"),
        ({"limit": ["1", "2"]}, "limit", "invalid_value"),
        ({"cursor": ""}, "cursor", "invalid_cursor"),
        ({"cursor": "x"}, "cursor", "invalid_cursor"),
        ({"cursor": "WyIxIl0:x"}, "cursor", "invalid_cursor"),
        ({"cursor": "é:\x01"}, "cursor", "invalid_cursor"),
        ({"split": "test"}, "split", "invalid_value"),
        ({"ids": ""}, "ids", "invalid_value"),
        ({"ids": "../x"}, "ids", "invalid_value"),
        ({"ids": ",".join([str(uuid7())] * 201)}, "ids", "invalid_value"),
        ({"external_id": "\x00"}, "external_id", "invalid_text"),
        ({"format": "html"}, "format", "unknown_parameter"),
        ({"page": "2"}, "page", "unknown_parameter"),
        ({"\x00": "1"}, "\x00", "unknown_parameter"),
    ],
)
def test_wrong_parameters(cast: Cast, params: dict[str, Any], param: str, code: str):
    response = cast.get("prompts", params)
    assert (response.status_code, error_of(response)["code"]) == (422, code)
    assert error_of(response)["param"] == param


def test_a_cursor_is_of_its_list_and_project_and_cannot_be_forged(cast: Cast):
    for key in (cast.key, cast.foreign_key):
        send(cast, line("One?"), line("Two?"), key=key)
    cursor = cast.get("prompts", {"limit": 1}).json()["next"]
    assert cast.get("prompts", {"cursor": cursor}).status_code == 200
    middle = len(cursor) // 4
    forged = cursor[:middle] + ("A" if cursor[middle] != "A" else "B") + cursor[middle + 1 :]
    for path, given, key in [
        ("prompts", forged, cast.key),
        ("prompts", cursor[:-1], cast.key),
        ("prompts", cursor, cast.foreign_key),
        ("completions", cursor, cast.key),
        ("feedback", cursor, cast.key),
    ]:
        refused = cast.get(path, {"cursor": given}, key=key)
        assert (refused.status_code, error_of(refused)["code"]) == (422, "invalid_cursor")


def test_turns_of_a_conversation_are_listed_with_it(cast: Cast):
    conversation = Conversation.objects.create(project=cast.project, owner=cast.bob)
    cast.prompt("In a chat?", conversation=conversation)
    [found] = cast.get("prompts").json()["items"]
    assert found["conversation_id"] == str(conversation.pk)
