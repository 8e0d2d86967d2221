"""A POST that is sent again is done once, and answered as it was the first time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone

from feedback.models import Rating
from inference.models import Completion, Prompt
from projects.idempotency import forget_requests
from projects.models import ApiKey, IdempotentRequest, WebhookEndpoint
from tests.cast import Cast, error_of
from tests.feedback.judging import rating

ANSWER = {
    "messages": [{"role": "user", "content": "How long?"}],
    "text": "Eight minutes.",
    "version_label": "their-model",
}


def send(cast: Cast, path: str, body: Any, name: str = "once", **more: Any) -> Any:
    return cast.post(path, body, headers={"idempotency-key": name}, **more)


def test_the_same_request_again_is_done_once(cast: Cast):
    first = send(cast, "completions", ANSWER)
    again = send(cast, "completions", dict(reversed(ANSWER.items())))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert Completion.objects.count() == 1
    assert send(cast, "completions", ANSWER, name="twice").json()["id"] != first.json()["id"]


def test_another_request_under_the_same_name_is_refused(cast: Cast):
    cast.answered_prompt()
    before = Completion.objects.count()
    send(cast, "completions", ANSWER)
    for path, body in [("completions", {**ANSWER, "text": "Nine."}), ("feedback/batch", {"items": [1]})]:
        refused = send(cast, path, body)
        assert (refused.status_code, error_of(refused)["code"]) == (422, "idempotency_key_reused")
    assert Completion.objects.count() == before + 1
    # Another key's names are its own.
    assert send(cast, "completions", {**ANSWER, "text": "Nine."}, key=cast.manage_key).status_code == 201


def test_a_refusal_uses_up_no_name(cast: Cast):
    assert send(cast, "completions", {**ANSWER, "text": ""}).status_code == 422
    assert send(cast, "completions", b"{").status_code == 400
    assert not IdempotentRequest.objects.exists()
    assert send(cast, "completions", ANSWER).status_code == 201


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a b", "\u00e9", "a\x00"])
def test_names_that_are_none(cast: Cast, name: str):
    refused = send(cast, "completions", ANSWER, name=name)
    assert (refused.status_code, error_of(refused)["param"]) == (422, "Idempotency-Key")


def test_a_request_in_flight_is_409_and_a_dead_one_is_taken_over(cast: Cast):
    send(cast, "completions", ANSWER)
    # What a process that was killed leaves: a claim without an answer, and nothing done.
    IdempotentRequest.objects.update(status=None, answer="")
    Completion.objects.all().delete()
    waiting = send(cast, "completions", ANSWER)
    assert (waiting.status_code, error_of(waiting)["code"]) == (409, "idempotency_in_flight")
    assert waiting.headers["Retry-After"] == "1"
    assert send(cast, "completions", {**ANSWER, "text": "Nine."}).status_code == 422
    IdempotentRequest.objects.update(locked_until=timezone.now() - timedelta(seconds=1))
    assert send(cast, "completions", ANSWER).status_code == 201
    assert send(cast, "completions", ANSWER).headers["Idempotent-Replayed"] == "true"
    assert Completion.objects.count() == 1


def test_our_own_bug_leaves_neither_the_effect_nor_the_claim(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise KeyError

    monkeypatch.setattr("projects.idempotency.JSONRenderer", broken)
    assert send(cast, "completions", ANSWER).status_code == 500
    monkeypatch.undo()
    assert not Completion.objects.exists() and not IdempotentRequest.objects.exists()
    assert send(cast, "completions", ANSWER).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_at_the_same_time_one_does_it(cast: Cast):
    _, answers = cast.answered_prompt()
    body = {"items": [rating(answers[0], subject=str(number)) for number in range(20)]}
    start = Barrier(4)

    def one(_: int) -> Any:
        try:
            start.wait(10)
            client = Client(raise_request_exception=False, headers={**cast.auth(), "idempotency-key": "x"})
            return client.post("/api/v1/feedback/batch", body, content_type="application/json")
        finally:
            connections.close_all()

    connections.close_all()
    with ThreadPoolExecutor(4) as threads:
        responses = list(threads.map(one, range(4)))
    statuses = sorted(response.status_code for response in responses)
    assert set(statuses) <= {200, 409} and 200 in statuses
    done = [response.json() for response in responses if response.status_code == 200]
    assert all(one == done[0] for one in done)
    assert {one["status"] for one in done[0]["results"]} == {201}
    assert Rating.objects.count() == 20


def test_lines_are_replayed_by_what_they_say(cast: Cast):
    lines = [json.dumps({"messages": [{"role": "user", "content": f"Why {n}?"}]}).encode() for n in range(9)]

    def post(raw: bytes) -> Any:
        return send(cast, "prompts", raw, content_type="application/x-ndjson")

    first = post(b"\n".join(lines))
    assert first.json()["created"] == 9
    again = post(b"\n".join(lines))
    assert again.json() == first.json() and again.headers["Idempotent-Replayed"] == "true"
    refused = post(b"\n".join(lines[:-1]))
    assert error_of(refused)["code"] == "idempotency_key_reused"
    assert Prompt.objects.count() == 9


def test_a_secret_is_not_kept_for_the_replay(cast: Cast):
    for path, body, name in [
        ("webhooks", {"url": "https://example.com/"}, "secret"),
        ("keys", {"name": "robot", "scopes": ["generate"]}, "key"),
    ]:
        first = send(cast, path, body, key=cast.manage_key, name=path).json()
        again = send(cast, path, body, key=cast.manage_key, name=path).json()
        assert first[name] and again == {**first, name: None}
        assert not IdempotentRequest.objects.filter(answer__contains=first[name]).exists()
    assert (WebhookEndpoint.objects.count(), ApiKey.objects.filter(name="robot").count()) == (1, 1)


def test_answers_are_kept_for_a_day(cast: Cast):
    send(cast, "completions", ANSWER)
    send(cast, "completions", ANSWER, name="young")
    IdempotentRequest.objects.filter(name="once").update(created=timezone.now() - timedelta(hours=25))
    assert "Idempotent-Replayed" not in send(cast, "completions", ANSWER).headers
    IdempotentRequest.objects.filter(name="once").update(created=timezone.now() - timedelta(hours=25))
    assert forget_requests() == 1


def test_every_post_of_the_api_can_be_sent_twice():
    def views(found: Any, before: str = "") -> Any:
        for one in found:
            path = f"{before}{one.pattern}"
            if hasattr(one, "url_patterns"):
                yield from views(one.url_patterns, path)
            else:
                yield path, one.callback

    posts = [
        (path, view.cls.post)
        for path, view in views(get_resolver().url_patterns)
        if path.startswith("api/v1/") and hasattr(getattr(view, "cls", None), "post")
    ]
    assert len(posts) > 10
    assert [path for path, post in posts if not getattr(post, "is_idempotent", False)] == []
