"""Prompts: what can be asked, one row for one question, and a split that never straddles."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connections

from inference.models import Conversation, Prompt
from inference.services.prompts import (
    ContextLengthExceeded,
    ExternalIdTaken,
    record_prompt,
    split_for,
    validate_messages,
)
from projects.errors import Invalid
from tests.cast import Cast

HI = {"role": "user", "content": "Hi"}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("Hi", "messages"),
        ([HI] * 201, "messages"),
        (["Hi"], "messages.0"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user", "content": " \n"}], "messages.0.content"),
        ([{"role": "user", "content": "a\x00"}], "messages.0.content"),
        ([{"role": "user", "content": []}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content"),
        ([{"role": "system", "content": None}, HI], "messages.0.content"),
        ([{"role": ["user"], "content": "x"}], "messages.0.role"),
        ([{"content": "x"}], "messages.0.role"),
        ([HI, {"role": "assistant", "content": "Hello"}], "messages.1.role"),
    ],
)
def test_what_cannot_be_asked(messages: Any, param: str) -> None:
    with pytest.raises(Invalid) as raised:
        validate_messages(messages)
    assert raised.value.param == param


@pytest.mark.unit
def test_what_is_kept_of_messages() -> None:
    given = [
        {"role": "system", "content": "Be brief.", "name": "x"},
        HI,
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
    ]
    assert validate_messages(given) == [
        {"role": "system", "content": "Be brief."},
        HI,
        {"role": "assistant", "content": ""},
        {"role": "system", "content": ""},
        {"role": "user", "content": "One\nTwo"},
    ]


@pytest.mark.unit
def test_more_than_the_context_could_ever_hold() -> None:
    with pytest.raises(ContextLengthExceeded):
        validate_messages([{"role": "user", "content": "x" * 100_000}])


def test_the_same_question_is_one_prompt(cast: Cast) -> None:
    first, is_new = record_prompt(project=cast.project, messages=[HI])
    again, is_new_again = record_prompt(project=cast.project, messages=[{**HI, "name": "ada"}])
    assert (is_new, is_new_again, again) == (True, False, first)
    elsewhere, is_new = record_prompt(project=cast.garden, messages=[HI])
    assert is_new
    assert elsewhere != first
    talk = Conversation.objects.create(project=cast.project, owner=cast.bob)
    said = [record_prompt(project=cast.project, messages=[HI], conversation=talk)[0] for _ in range(2)]
    assert len({first, *said}) == 3, "in a conversation each turn is its own"


def test_names_of_others(cast: Cast) -> None:
    first, _ = record_prompt(project=cast.project, messages=[HI], external_id="a")
    assert record_prompt(project=cast.project, messages=[HI], external_id="a") == (first, False)
    with pytest.raises(ExternalIdTaken, match="names a prompt with other messages"):
        record_prompt(project=cast.project, messages=[{**HI, "content": "Ho"}], external_id="a")
    with pytest.raises(ExternalIdTaken, match="already the prompt a"):
        record_prompt(project=cast.project, messages=[HI], external_id="b")
    unnamed, _ = record_prompt(project=cast.project, messages=[{**HI, "content": "Ho"}])
    named, is_new = record_prompt(project=cast.project, messages=[{**HI, "content": "Ho"}], external_id="c")
    assert (named, named.external_id, is_new) == (unnamed, "c", False)


def test_a_split_is_fixed_at_birth_and_shared_by_a_conversation(cast: Cast) -> None:
    sides = {}
    for number in range(400):
        start = {"role": "user", "content": f"Question {number}"}
        sides[number] = split_for(cast.project, [start])
        later = [
            start,
            {"role": "assistant", "content": "So."},
            {"role": "user", "content": f"And {number}?"},
        ]
        assert split_for(cast.project, later) == sides[number]
        with_system = [{"role": "system", "content": "Be kind."}, start]
        assert split_for(cast.project, with_system) == sides[number]
    assert 150 < list(sides.values()).count("gate") < 250, "gate_share is 0.5"
    prompt = cast.prompt("Question", split="gate")
    cast.project.gate_share = 0.0
    cast.project.save(update_fields=["gate_share"])
    again, _ = record_prompt(project=cast.project, messages=prompt.messages)
    assert again.split == "gate"
    assert split_for(cast.project, prompt.messages) == "train"
    cast.project.gate_share = 1.0
    assert split_for(cast.project, prompt.messages) == "gate"


@pytest.mark.django_db(transaction=True)
def test_the_same_question_at_the_same_time(cast: Cast) -> None:
    together, got = threading.Barrier(6), []

    def go() -> None:
        try:
            together.wait()
            got.append(record_prompt(project=cast.project, messages=[HI], external_id="a"))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert [is_new for _, is_new in got].count(True) == 1
    assert Prompt.objects.count() == 1
