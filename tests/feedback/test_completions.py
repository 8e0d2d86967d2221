"""Completions by REST: answers made elsewhere come in, and then they are judged like ours."""

from __future__ import annotations

from typing import Any

import pytest

from inference.models import Completion, Prompt
from projects.ids import uuid7
from tests.cast import Cast, error_of
from tests.feedback.judging import preference

ASKED = [{"role": "user", "content": "How do I boil an egg?"}]


def made(**more: Any) -> dict[str, Any]:
    return {"messages": ASKED, "text": "In water.", "version_label": "other-model", **more}


def test_an_answer_by_messages_and_one_by_prompt_id_can_be_compared(cast: Cast):
    first = cast.post(
        "completions", made(tokens_in=9, tokens_out=3, subject="user-1", finish_reason="length")
    )
    assert first.status_code == 201
    said = first.json()
    assert (said["version"], said["state"], said["finish_reason"]) == ("other-model", "finished", "length")
    assert (said["tokens_in"], said["tokens_out"], said["subject"]) == (9, 3, "user-1")
    prompt = Prompt.objects.get()
    assert said["prompt_id"] == str(prompt.pk)
    body = {"prompt_id": said["prompt_id"], "text": "Eight minutes.", "version_label": "human"}
    assert cast.post("completions", body).status_code == 201
    assert cast.post("feedback", preference(list(prompt.completions.all()), [1, 2])).status_code == 201


def test_with_an_id_sending_again_is_no_second_answer(cast: Cast):
    body = made(id=str(uuid7()))
    first, again = cast.post("completions", body), cast.post("completions", body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = cast.post("completions", {**body, "text": "Otherwise."})
    assert (other.status_code, error_of(other)["code"]) == (422, "id_reused")
    theirs = cast.post("completions", body, key=cast.foreign_key)
    assert (theirs.status_code, error_of(theirs)["code"]) == (422, "id_reused")
    assert Completion.objects.count() == 1


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"text": ""}, "text"),
        ({"text": " \n"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "x" * 200_001}, "text"),
        ({"version_label": ""}, "version_label"),
        ({"version_label": "x" * 101}, "version_label"),
        ({"version_label": "kitchen@v7"}, "version_label"),
        ({"finish_reason": "tired"}, "finish_reason"),
        ({"tokens_out": -1}, "tokens_out"),
        ({"tokens_out": 2**31}, "tokens_out"),
        ({"tokens_out": 1.5}, "tokens_out"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({"messages": None}, "prompt_id"),
        ({"prompt_id": str(uuid7())}, "prompt_id"),
        ({"project": "garden"}, "project"),
        ({"state": "running"}, "state"),
        ({"id": "1"}, "id"),
    ],
)
def test_wrong_answers_are_refused(cast: Cast, wrong: dict[str, Any], param: str):
    response = cast.post("completions", {**made(), **wrong})
    assert (response.status_code, error_of(response)["param"]) == (422, param), response.content
    assert not Completion.objects.exists()


def test_a_foreign_prompt_is_unknown(cast: Cast):
    theirs = cast.prompt(project=cast.garden)
    body = {"prompt_id": str(theirs.pk), "text": "In water.", "version_label": "x"}
    response = cast.post("completions", body)
    assert (response.status_code, error_of(response)["param"]) == (404, "prompt_id")


def test_listed_by_prompt_and_version(cast: Cast):
    prompt, ours = cast.answered_prompt()
    _, theirs = cast.answered_prompt(project=cast.garden)
    cast.post("completions", made())
    every = cast.get("completions").json()["items"]
    assert len(every) == 3
    assert not {str(one.pk) for one in theirs} & {one["id"] for one in every}
    mine = cast.get("completions", {"prompt_id": str(prompt.pk)}).json()["items"]
    assert {one["id"] for one in mine} == {str(one.pk) for one in ours}
    assert {one["version"] for one in mine} == {"kitchen@v1"} and mine[0]["ttft_ms"] == 80.0
    assert len(cast.get("completions", {"version": "other-model"}).json()["items"]) == 1
    assert cast.get("completions", {"prompt_id": str(theirs[0].prompt_id)}).json()["items"] == []
    assert error_of(cast.get("completions", {"prompt_id": "1"}))["param"] == "prompt_id"
