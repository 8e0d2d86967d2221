"""Judgements that make no sense: each the right 4xx, with the field at fault, and nothing is kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.models import Correction, Flag, Preference, Rating
from inference.models import Completion
from projects.ids import uuid7
from tests.cast import Cast, error_of
from tests.feedback.judging import correction, flag, preference, rating

Answers = list[Completion]
Wrong = tuple[Callable[[Answers], Any], int, str, str | None]

WRONG: dict[str, Wrong] = {
    # values and reasons
    "value 0": (lambda a: rating(a[0], 0), 422, "invalid_value", "value"),
    "value 2": (lambda a: rating(a[0], 2), 422, "invalid_value", "value"),
    "value 10**18": (lambda a: rating(a[0], 10**18), 422, "invalid_value", "value"),
    "value as text": (lambda a: rating(a[0], "1"), 422, "invalid_value", "value"),
    "value 1.0": (lambda a: rating(a[0], 1.0), 422, "invalid_value", "value"),
    "value true": (lambda a: rating(a[0], True), 422, "invalid_value", "value"),
    "value null": (lambda a: rating(a[0], None), 422, "invalid_value", "value"),
    "unknown aspect": (lambda a: rating(a[0], aspect="taste"), 422, "invalid_value", "aspect"),
    "unknown reason": (lambda a: rating(a[0], reasons=["blue"]), 422, "unknown_reason", "reasons"),
    "reason of the other thumb": (
        lambda a: rating(a[0], reasons=["wrong"]),
        422,
        "unknown_reason",
        "reasons",
    ),
    "reason twice": (lambda a: rating(a[0], reasons=["clear", "clear"]), 422, "invalid_value", "reasons"),
    "reasons as text": (lambda a: rating(a[0], reasons="clear"), 422, "invalid_value", "reasons"),
    "long comment": (lambda a: rating(a[0], comment="x" * 4001), 422, "invalid_value", "comment"),
    "long subject": (lambda a: rating(a[0], subject="x" * 201), 422, "invalid_value", "subject"),
    "negative seconds": (lambda a: rating(a[0], seconds_spent=-1), 422, "invalid_value", "seconds_spent"),
    "a week of seconds": (
        lambda a: rating(a[0], seconds_spent=604_800),
        422,
        "invalid_value",
        "seconds_spent",
    ),
    "unknown flag": (lambda a: flag(a[0], "ugly"), 422, "unknown_reason", "reason"),
    # comparisons
    "one candidate": (lambda a: preference(a[:1], [1]), 422, "invalid_value", "candidates"),
    "nine candidates": (lambda a: preference(a[:3] * 3, [1] * 9), 422, "invalid_value", "candidates"),
    "A against A": (lambda a: preference([a[0], a[0]], [1, 2]), 422, "same_candidate", "candidates"),
    "another prompt": (lambda a: preference([a[0], a[3]], [1, 2]), 422, "different_prompts", "candidates"),
    "too few ranks": (lambda a: preference(a[:2], [1]), 422, "invalid_value", "ranks"),
    "too many ranks": (lambda a: preference(a[:2], [1, 2, 3]), 422, "invalid_value", "ranks"),
    "no ranks at all": (lambda a: preference(a[:2], []), 422, "invalid_value", "ranks"),
    "ranks from 0": (lambda a: preference(a[:2], [0, 1]), 422, "invalid_value", "ranks"),
    "nobody first": (lambda a: preference(a[:2], [2, 2]), 422, "invalid_value", "ranks"),
    "rank 10**9": (lambda a: preference(a[:2], [1, 10**9]), 422, "invalid_value", "ranks"),
    "rank 1.5": (lambda a: preference(a[:2], [1, 1.5]), 422, "invalid_value", "ranks.1"),
    "both": (lambda a: preference(a[:2], [1, 2], all_bad=True), 422, "invalid_value", "ranks"),
    "neither": (lambda a: preference(a[:2], all_bad=False), 422, "invalid_value", "ranks"),
    "strength 4": (lambda a: preference(a[:2], [1, 2], strength=4), 422, "invalid_value", "strength"),
    "a strong tie": (lambda a: preference(a[:2], [1, 1], strength=1), 422, "invalid_value", "strength"),
    "strongly all bad": (lambda a: preference(a[:2], strength=1), 422, "invalid_value", "strength"),
    # corrections
    "unchanged": (lambda a: correction(a[0], a[0].text), 422, "same_text", "text"),
    "spaces around": (lambda a: correction(a[0], f"  {a[0].text}\r\n"), 422, "same_text", "text"),
    "zero-width added": (lambda a: correction(a[0], a[0].text + "\u200b\ufeff"), 422, "same_text", "text"),
    "empty": (lambda a: correction(a[0], ""), 422, "empty_text", "text"),
    "only spaces": (lambda a: correction(a[0], " \n\t\u00a0\u3000"), 422, "empty_text", "text"),
    "only zero-width": (lambda a: correction(a[0], "\u200b\u200d\u2060\ufeff"), 422, "empty_text", "text"),
    "only blanks": (lambda a: correction(a[0], "\u3164\u2800\u115f"), 422, "empty_text", "text"),
    "a lone accent": (lambda a: correction(a[0], "\u0301"), 422, "empty_text", "text"),
    "100 kB": (lambda a: correction(a[0], "x" * 100_000), 422, "invalid_value", "text"),
    "text is a number": (lambda a: correction(a[0], 5), 422, "invalid_value", "text"),  # type: ignore[arg-type]
    # what is judged
    "running": (lambda a: rating(a[4]), 422, "completion_unfinished", "completion_id"),
    "failed": (lambda a: rating(a[5]), 422, "completion_failed", "completion_id"),
    "erased": (lambda a: rating(a[6]), 422, "completion_erased", "completion_id"),
    "one running": (lambda a: preference([a[0], a[4]], [1, 2]), 422, "completion_unfinished", "candidates"),
    "foreign": (lambda a: rating(a[7]), 404, "not_found", "completion_id"),
    "one foreign": (lambda a: preference([a[0], a[7]], [1, 2]), 404, "not_found", "candidates"),
    "foreign flag": (lambda a: flag(a[7]), 404, "not_found", "completion_id"),
    "foreign correction": (lambda a: correction(a[7]), 404, "not_found", "completion_id"),
    "unknown": (lambda a: rating(a[0], completion_id=str(uuid7())), 404, "not_found", "completion_id"),
    "a path for an id": (lambda a: rating(a[0], completion_id="../1"), 422, "invalid_value", "completion_id"),
    # the body
    "unknown kind": (lambda a: {"kind": "like"}, 422, "invalid_value", "kind"),
    "kind as a list": (lambda a: {"kind": ["rating"]}, 422, "invalid_value", "kind"),
    "no kind": (lambda a: {}, 422, "invalid_value", "kind"),
    "a list": (lambda a: [rating(a[0])], 422, "invalid_value", None),
    "a bare string": (lambda a: "rating", 422, "invalid_value", None),
    "null": (lambda a: None, 422, "invalid_value", "kind"),
    "unknown field": (lambda a: rating(a[0], rater="bob"), 422, "unknown_field", "rater"),
    "field of another kind": (lambda a: rating(a[0], text="x"), 422, "unknown_field", "text"),
    "a missing field": (lambda a: {"kind": "correction", "text": "x"}, 422, "invalid_value", "completion_id"),
}


@pytest.fixture
def answers(cast: Cast) -> Answers:
    """Three answers to one prompt; then: to another prompt, running, failed, erased, of the garden."""
    prompt, same = cast.answered_prompt(answers=["In water.", "Eight minutes.", "No."])
    _, [other] = cast.answered_prompt("Why is the sky blue?", ["Air."])
    running = cast.answer(prompt, state="running")
    failed = cast.answer(prompt, "Eight", state="failed")
    erased = cast.answer(prompt, "Bad words.")
    Completion.objects.filter(pk=erased.pk).update(text="", quarantined=True)
    _, [foreign] = cast.answered_prompt(answers=["Plant it."], project=cast.garden)
    return [*same, other, running, failed, erased, foreign]


@pytest.mark.parametrize("name", WRONG)
def test_refused_alone_and_in_a_batch(cast: Cast, answers: Answers, name: str):
    make, status, code, param = WRONG[name]
    alone = cast.post("feedback", make(answers))
    assert alone.status_code == status, alone.content
    error = error_of(alone)
    assert (error["code"], error["param"]) == (code, param), error
    [result] = cast.post("feedback/batch", {"items": [make(answers)]}).json()["results"]
    if name != "null":  # a missing body is no body; in a batch it is an item that is no object
        assert (result["status"], result["error"]["code"], result["error"]["param"]) == (status, code, param)
    assert not any(model.objects.exists() for model in (Rating, Preference, Correction, Flag))


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 422, "invalid_value"),
        (b"{", 400, "malformed_body"),
        (b'{"kind": "rating", "kind": "flag"}', 400, "duplicate_key"),
        (b'{"value": NaN}', 400, "not_a_number"),
        (b'{"value": 1e400}', 400, "number_too_large"),
        (b'{"value": ' + b"1" * 5_000 + b"}", 400, "number_too_large"),
        (b'{"comment": "\\u0000"}', 400, "invalid_text"),
        (b'{"comment": "\\ud800"}', 400, "invalid_text"),
        (b'{"comment": "\xff"}', 400, "malformed_body"),
        (b"[" * 1_000 + b"]" * 1_000, 400, "nested_too_deeply"),
        (b"[" * 100_000, 400, "nested_too_deeply"),
        (b" " * 1_000_001, 413, "body_too_large"),
    ],
)
def test_bodies_that_are_no_json_of_ours(cast: Cast, raw: bytes, status: int, code: str):
    for path in ("feedback", "feedback/batch", "completions"):
        response = cast.post(path, raw)
        assert (response.status_code, error_of(response)["code"]) == (status, code)


def test_compressed_and_foreign_types_are_415(cast: Cast):
    packed = cast.post("feedback", gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    assert (packed.status_code, error_of(packed)["code"]) == (415, "unsupported_encoding")
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "x",
    ):
        response = cast.post("feedback", b"{}", content_type=content_type)
        assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")
        assert "application/json" in error_of(response)["message"]
    lines = cast.post("prompts", b"{}")
    assert lines.status_code == 415 and "application/x-ndjson" in error_of(lines)["message"]


def test_query_parameters_that_nobody_knows_are_refused(cast: Cast, answers: Answers):
    response = cast.post("feedback?dry_run=1", rating(answers[0]))
    assert (response.status_code, error_of(response)["param"]) == (422, "dry_run")
    assert not Rating.objects.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "id", "kind", "completion_id", "candidates", "value", "ranks", "all_bad", "strength", "text", "reason",
    "aspect", "reasons", "comment", "subject", "seconds_spent", "supersedes", "extra",
]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_field_with_anything_in_it_breaks_the_server(cast: Cast, data: st.DataObject):
    if not Completion.objects.exists():
        cast.answered_prompt()
    answers = list(Completion.objects.order_by("id"))
    makers: list[Callable[[], dict[str, Any]]] = [
        lambda: rating(answers[0]),
        lambda: preference(answers, [1, 2]),
        lambda: correction(answers[0]),
        lambda: flag(answers[0]),
    ]
    body = data.draw(st.sampled_from(makers))()
    for field in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2)):
        body[field] = data.draw(JSON)
    response = cast.post("feedback", json.dumps(body).encode())
    assert response.status_code < 500, (body, response.content)
    if response.status_code >= 400:
        error_of(response)
    batch = cast.post("feedback/batch", json.dumps({"items": [body]}).encode())
    assert batch.status_code < 500, (body, batch.content)
