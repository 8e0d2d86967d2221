"""Chat completions: shapes of whole answers and of streams, and what each parameter does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conformance.conftest import FIXED, USER, Target, at_once, texts_of

pytestmark = pytest.mark.model
RANDOM: dict[str, Any] = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True}


def test_a_whole_answer(target: Target) -> None:
    answer = target.whole(**FIXED)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["model"] == target.base
    assert abs(answer["created"] - time.time()) < 60
    (choice,) = answer["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    usage = answer["usage"]
    assert usage["completion_tokens"] == 16
    assert usage["prompt_tokens"] > 10
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_stream_is_role_text_finish_done(target: Target) -> None:
    chunks = target.stream(**FIXED)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {target.base}
    first, *middle, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"]["role"] == "assistant"
    assert not first["delta"].get("content")
    assert len(middle) > 4, "text comes as it is made"
    assert {choice["finish_reason"] for choice in [first, *middle]} == {None}
    assert last["finish_reason"] == "length"
    assert texts_of(chunks) == {0: target.text()}
    assert all("usage" not in chunk or chunk["usage"] is None for chunk in chunks), "nobody asked for it"


@pytest.mark.parametrize("options", [{}, {"continuous_usage_stats": True}])
def test_usage_is_a_chunk_of_its_own_at_the_end(target: Target, options: dict[str, bool]) -> None:
    *chunks, last = target.stream(**FIXED, stream_options={"include_usage": True, **options})
    assert last["choices"] == []
    whole = target.whole(**FIXED)["usage"]
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [last["usage"][name] for name in names] == [whole[name] for name in names]
    assert all(chunk["choices"] for chunk in chunks)


def test_several_choices(target: Target) -> None:
    answer = target.whole(**RANDOM, n=3, seed=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] == 36, "all choices together"

    chunks = target.stream(**RANDOM, n=3, seed=1)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert len(set(texts_of(chunks).values())) == 3
    for index in range(3):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["length"]
        assert own[-1]["finish_reason"] == "length"


def test_greedy_repeats_itself_and_nothing_else_does(target: Target) -> None:
    assert target.text() == target.text()
    assert target.text(temperature=1.0, top_p=1e-6, seed=3) == target.text(), "only the likeliest is left"
    assert len({target.text(**RANDOM, seed=seed) for seed in range(4)}) == 4


def test_a_seed_repeats_an_answer(target: Target) -> None:
    assert target.text(**RANDOM, seed=7) == target.text(**RANDOM, seed=7)


def test_it_ends_where_a_stop_string_would_begin(target: Target) -> None:
    long = target.text(max_tokens=24)
    stop = long[8:10]
    before = long[: long.index(stop)]
    for wanted in (stop, ["never said, not by this model", stop]):
        answer = target.whole(**{**FIXED, "max_tokens": 24}, stop=wanted)
        (choice,) = answer["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (before, "stop")
        assert answer["usage"]["completion_tokens"] < 24
    chunks = target.stream(**{**FIXED, "max_tokens": 24}, stop=stop)
    assert texts_of(chunks) == {0: before}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("length", [1, 5])
def test_length(target: Target, name: str, length: int) -> None:
    answer = target.whole(**{**FIXED, "max_tokens": None, name: length})
    assert answer["usage"]["completion_tokens"] == length
    assert answer["choices"][0]["finish_reason"] == "length"


def test_roles_and_parts(target: Target) -> None:
    """The newer name of `system` says the same, and parts are lines of one text."""
    system = [{"role": "system", "content": "You are small."}, *USER]
    developer = [{"role": "developer", "content": "You are small."}, *USER]
    assert target.text(messages=system) == target.text(messages=developer)
    parts = [{"type": "text", "text": "Why is"}, {"type": "text", "text": "the sky blue?"}]
    one = [{"role": "user", "content": "Why is\nthe sky blue?"}]
    assert target.text(messages=[{"role": "user", "content": parts}]) == target.text(messages=one)
    turns = [*USER, {"role": "assistant", "content": "Air."}, {"role": "user", "content": "And at night?"}]
    assert target.text(messages=turns)


@pytest.mark.parametrize(
    "extra", [{"user": "u1"}, {"never_heard_of": 1}, {"response_format": {"type": "text"}}, {"store": True}]
)
def test_what_it_does_not_know_it_ignores(target: Target, extra: dict[str, Any]) -> None:
    assert target.text(**extra) == target.text()


def test_many_at_once_are_answered_each_for_itself(target: Target) -> None:
    questions = [f"What is {number} and {number}?" for number in range(12)]
    lengths = [4 + number for number in range(12)]
    answers = at_once(
        *(
            lambda question=question, length=length: target.whole(
                messages=[{"role": "user", "content": question}],
                **{**FIXED, "max_tokens": length},
            )
            for question, length in zip(questions, lengths, strict=True)
        )
    )
    assert [answer["usage"]["completion_tokens"] for answer in answers] == lengths
    assert len({answer["id"] for answer in answers}) == 12
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) > 6


def test_who_leaves_frees_the_places(target: Target) -> None:
    """The answers are given up, not made to their end for nobody."""
    body = {**RANDOM, "model": target.base, "messages": USER, "n": 8, "max_tokens": 440}
    began = time.monotonic()
    target.whole(**body)
    to_the_end = time.monotonic() - began
    with target.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        lines = response.iter_lines()
        for _ in range(20):
            next(lines)
    assert target.seconds_until_idle() < to_the_end / 2
