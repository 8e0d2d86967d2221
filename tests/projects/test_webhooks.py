"""Events reach other systems: signed, once committed, again when they failed, and nowhere that is private."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from standardwebhooks import Webhook

from projects.ids import uuid7
from projects.models import AuditEvent, Project, WebhookDelivery, WebhookEndpoint
from projects.services import delivery
from projects.services.delivery import RETRIES, deliver_due, forget_deliveries
from projects.services.outbox import EVENTS, record_event
from tests.cast import Cast, error_of
from tests.feedback.judging import flag, preference, rating
from tests.receiver import Receiver, receiver

State = WebhookDelivery.State


@pytest.fixture
def hook(settings: Any) -> Iterator[Receiver]:
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    with receiver() as running:
        yield running


def made(cast: Cast, url: str, **more: Any) -> dict[str, Any]:
    response = cast.post("webhooks", {"url": url, **more}, key=cast.manage_key)
    assert response.status_code == 201, response.content
    return dict(response.json())


def happen(cast: Cast, number: int = 1) -> None:
    record_event(project=Project.objects.get(pk=cast.project.pk), name="run.finished", data={"run": number})


def make_due() -> None:
    WebhookDelivery.objects.filter(state=State.PENDING).update(due=timezone.now() - timedelta(seconds=1))


@pytest.mark.django_db(transaction=True)
class TestDelivery:
    def test_a_judgement_is_told_and_the_receiver_can_check_it(self, cast: Cast, hook: Receiver):
        secret = made(cast, hook.url)["secret"]
        _, answers = cast.answered_prompt()
        body = cast.post("feedback", preference(answers, [1, 2])).json()
        assert deliver_due() == 1
        [(headers, raw)] = hook.heard
        told = Webhook(secret).verify(raw, headers)
        assert told["type"] == "feedback.recorded"
        assert told["data"] == {
            "project": "kitchen",
            "id": body["id"],
            "kind": "preference",
            "completion_ids": body["candidates"],
            "supersedes": None,
        }
        assert headers["content-type"] == "application/json"
        [row] = cast.get("webhooks/deliveries", key=cast.manage_key).json()["items"]
        assert (row["state"], row["attempts"], row["status"], row["due"]) == ("delivered", 1, 200, None)
        assert row["event_id"] == headers["webhook-id"]
        assert deliver_due() == 0 and len(hook.heard) == 1

    def test_what_fails_is_tried_again_later_and_at_last_is_a_dead_letter(self, cast: Cast, hook: Receiver):
        made(cast, hook.url)
        hook.answers = [500, 302, *[503] * 20]
        happen(cast)
        seen = []
        for attempt in range(len(RETRIES) + 1):
            before = timezone.now()
            assert deliver_due() == 0
            row = WebhookDelivery.objects.get()
            seen.append(row.status)
            assert row.attempts == attempt + 1
            if attempt < len(RETRIES):
                assert row.state == State.PENDING
                assert row.due - before > timedelta(seconds=RETRIES[attempt] - 1)
            assert deliver_due() == 0, "not before it is due"
            make_due()
        assert seen[:3] == [500, 302, 503] and len(hook.heard) == len(RETRIES) + 1
        assert len({headers["webhook-id"] for headers, _ in hook.heard}) == 1
        [dead] = cast.get("webhooks/deliveries", {"state": "dead"}, key=cast.manage_key).json()["items"]
        assert dead["error"] == "It answered 503."
        hook.answers = []
        again = cast.post(f"webhooks/deliveries/{dead['id']}/again", key=cast.manage_key)
        assert (again.json()["state"], again.json()["attempts"]) == ("pending", 0)
        assert deliver_due() == 1
        assert AuditEvent.objects.filter(action="webhook.sent_again").count() == 1

    def test_while_a_secret_is_changed_both_are_good(self, cast: Cast, hook: Receiver):
        first = made(cast, hook.url)
        second = cast.post(f"webhooks/{first['id']}/rotate", key=cast.manage_key).json()
        happen(cast)
        deliver_due()
        for secret in (first["secret"], second["secret"]):
            Webhook(secret).verify(hook.heard[0][1], hook.heard[0][0])
        WebhookEndpoint.objects.update(previous_until=timezone.now())
        happen(cast)
        deliver_due()
        Webhook(second["secret"]).verify(hook.heard[1][1], hook.heard[1][0])
        assert " " not in hook.heard[1][0]["webhook-signature"]

    def test_each_endpoint_hears_what_it_wants_and_one_that_fails_holds_up_no_other(
        self, cast: Cast, hook: Receiver
    ):
        with receiver() as other:
            made(cast, hook.url, events=["deployment.promoted"])
            made(cast, other.url)
            made(cast, "http://127.0.0.1:9/nobody")
            happen(cast)
            happen(cast, 2)
            assert deliver_due() == 2
            assert [json.loads(raw)["data"]["run"] for _, raw in other.heard] == [1, 2]
        assert not hook.heard
        failed = WebhookDelivery.objects.filter(state=State.PENDING).order_by("id")
        assert [one.attempts for one in failed] == [1, 0], "after a failure the others wait"
        assert failed[0].error.startswith("It could not be reached")

    def test_an_answer_that_trickles_in_does_not_hold_the_worker(
        self, cast: Cast, hook: Receiver, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(delivery, "ATTEMPT_SECONDS", 0.4)
        made(cast, hook.url)
        hook.answers = ["hang"]
        happen(cast)
        began = time.monotonic()
        assert deliver_due() == 0
        assert time.monotonic() - began < 10
        assert WebhookDelivery.objects.get().error.startswith("It did not answer")

    def test_a_worker_that_died_in_the_middle_leaves_it_due_again(self, cast: Cast, hook: Receiver):
        made(cast, hook.url)
        happen(cast)
        # What a worker that was killed leaves behind: a claimed endpoint and a claimed delivery.
        WebhookEndpoint.objects.update(busy_until=timezone.now() + timedelta(seconds=30))
        assert deliver_due() == 0
        WebhookEndpoint.objects.update(busy_until=timezone.now() - timedelta(seconds=1))
        assert deliver_due() == 1

    def test_a_name_that_leads_to_a_private_address_is_refused_when_it_is_called(
        self, cast: Cast, hook: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
    ):
        port = hook.url.rpartition(":")[2].partition("/")[0]
        made(cast, f"http://rebound.example:{port}/hook")
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
        settings.WEBHOOK_NETWORKS = []
        happen(cast)
        assert deliver_due() == 0 and not hook.heard
        assert "no public address" in WebhookDelivery.objects.get().error
        settings.WEBHOOK_NETWORKS = ["127.0.0.1/32"]
        make_due()
        assert deliver_due() == 1
        assert hook.heard[0][0]["host"] == f"rebound.example:{port}"


def test_an_event_is_committed_with_what_happened_or_not_at_all(cast: Cast, hook: Receiver):
    made(cast, hook.url)
    with pytest.raises(RuntimeError), transaction.atomic():
        happen(cast)
        raise RuntimeError
    assert not WebhookDelivery.objects.exists()
    _, answers = cast.answered_prompt()
    assert cast.post("feedback", rating(answers[0])).status_code == 201
    assert cast.post("feedback", rating(answers[0])).status_code == 409
    items = [rating(answers[1]), rating(answers[1]), flag(answers[1])]
    cast.post("feedback/batch", {"items": items})
    assert WebhookDelivery.objects.count() == 3


def test_where_nobody_listens_an_event_costs_nothing(cast: Cast, django_assert_num_queries: Any):
    with django_assert_num_queries(0):
        record_event(project=cast.project, name="run.finished", data={})
    with pytest.raises(ValueError, match=r"unknown event run\.began"):
        record_event(project=cast.project, name="run.began", data={})


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"url": "example.com"}, "url", "invalid_value"),
        ({"url": "ftp://example.com"}, "url", "invalid_value"),
        ({"url": "https://"}, "url", "invalid_value"),
        ({"url": "https://example.com:99999/"}, "url", "invalid_value"),
        ({"url": "https://user:secret@example.com/"}, "url", "invalid_value"),
        ({"url": "https://example.com/a b"}, "url", "invalid_value"),
        ({"url": "https://example.com/\r\nX: y"}, "url", "invalid_value"),
        ({"url": "https://ex\u00e4mple.com/"}, "url", "invalid_value"),
        ({"url": "https://[::1"}, "url", "invalid_value"),
        ({"url": "http://127.0.0.1/"}, "url", "private_address"),
        ({"url": "http://127.1/"}, "url", "private_address"),
        ({"url": "http://2130706433/"}, "url", "private_address"),
        ({"url": "http://localhost:8001/"}, "url", "private_address"),
        ({"url": "http://[::1]/"}, "url", "private_address"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "url", "private_address"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "url", "private_address"),
        ({"url": "http://10.1.2.3/"}, "url", "private_address"),
        ({"url": "http://0.0.0.0/"}, "url", "private_address"),
        ({"url": "http://224.0.0.1/"}, "url", "private_address"),
        ({"url": "https://example.com", "events": ["run.began"]}, "events", "invalid_value"),
        ({"url": "https://example.com", "events": "all"}, "events", "invalid_value"),
        ({"url": "https://example.com", "secret": "mine"}, "secret", "unknown_field"),
        ({}, "url", "invalid_value"),
    ],
)
def test_endpoints_that_are_none(cast: Cast, body: dict[str, Any], param: str, code: str):
    response = cast.post("webhooks", body, key=cast.manage_key)
    assert (response.status_code, error_of(response)["code"]) == (422, code)
    assert error_of(response)["param"] == param
    assert not WebhookEndpoint.objects.exists()
    if body:  # without anything to change, nothing is wrong
        first = made(cast, "https://example.com/hook")
        changed = cast.patch(f"webhooks/{first['id']}", body, key=cast.manage_key)
        assert (changed.status_code, error_of(changed)["code"]) == (422, code)
        assert WebhookEndpoint.objects.get().url == first["url"]


def test_an_endpoint_and_its_deliveries_are_of_one_project_and_for_managers(cast: Cast):
    first = made(cast, "https://example.com/hook")
    assert first["secret"].startswith("whsec_")
    happen(cast)
    row = WebhookDelivery.objects.get()
    [listed] = cast.get("webhooks", key=cast.manage_key).json()["items"]
    assert listed == {name: value for name, value in first.items() if name != "secret"}
    assert first["secret"] not in cast.get("webhooks/deliveries", key=cast.manage_key).content.decode()
    for path in ("webhooks", "webhooks/deliveries"):
        assert cast.get(path).status_code == 403
        assert cast.get(path, key=cast.foreign_key).json()["items"] == []
    for path in (f"webhooks/{first['id']}/rotate", f"webhooks/deliveries/{row.pk}/again"):
        assert cast.post(path, key=cast.foreign_key).status_code == 404
    assert cast.post(f"webhooks/deliveries/{uuid7()}/again", key=cast.manage_key).status_code == 404
    assert cast.delete(f"webhooks/{first['id']}", key=cast.foreign_key).status_code == 404
    assert cast.get("webhooks/deliveries", {"state": "lost"}, key=cast.manage_key).status_code == 422
    assert cast.get("webhooks/deliveries", {"webhook_id": "../x"}, key=cast.manage_key).status_code == 422


def test_a_removed_endpoint_hears_no_more(cast: Cast):
    first = made(cast, "https://example.com/hook")
    happen(cast)
    assert cast.delete(f"webhooks/{first['id']}", key=cast.manage_key).status_code == 200
    assert cast.delete(f"webhooks/{first['id']}", key=cast.manage_key).status_code == 404
    row = WebhookDelivery.objects.get()
    assert (row.state, row.error) == (State.DEAD, "The endpoint was removed.")
    refused = cast.post(f"webhooks/deliveries/{row.pk}/again", key=cast.manage_key)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "webhook_removed")
    happen(cast, 2)
    assert WebhookDelivery.objects.count() == 1
    assert not Project.objects.get(pk=cast.project.pk).has_webhooks


def test_an_endpoint_is_changed_switched_off_and_on(cast: Cast):
    first = made(cast, "https://example.com/hook")
    path = f"webhooks/{first['id']}"

    def change(**what: Any) -> dict[str, Any]:
        response = cast.patch(path, what, key=cast.manage_key)
        assert response.status_code == 200, response.content
        return dict(response.json())

    happen(cast)
    off = change(enabled=False)
    assert off == {name: value for name, value in first.items() if name != "secret"} | {"enabled": False}
    assert not Project.objects.get(pk=cast.project.pk).has_webhooks
    happen(cast, 2)
    assert WebhookDelivery.objects.count() == 1, "off, it hears of nothing new"
    make_due()
    assert deliver_due() == 0
    assert WebhookDelivery.objects.get().state == State.PENDING, "and what waits goes on waiting"
    now = change(enabled=True, url="https://example.com/other", events=["run.finished", "run.finished"])
    assert (now["enabled"], now["url"], now["events"]) == (
        True,
        "https://example.com/other",
        ["run.finished"],
    )
    assert change() == now
    happen(cast, 3)
    assert WebhookDelivery.objects.count() == 2
    assert AuditEvent.objects.filter(action="webhook.changed").count() == 3
    assert cast.patch(path, {"enabled": False}).status_code == 403
    assert cast.patch(path, {"enabled": False}, key=cast.foreign_key).status_code == 404
    assert error_of(cast.patch(path, {"enabled": "no"}, key=cast.manage_key))["param"] == "enabled"


def test_there_are_not_more_endpoints_than_twenty(cast: Cast):
    for number in range(20):
        made(cast, f"https://example.com/{number}")
    refused = cast.post("webhooks", {"url": "https://example.com/20"}, key=cast.manage_key)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "too_many_webhooks")


def test_deliveries_that_are_over_are_forgotten_after_a_month(cast: Cast):
    made(cast, "https://example.com/hook")
    for _ in range(3):
        happen(cast)
    fresh, old, waiting = WebhookDelivery.objects.all()
    long_ago = timezone.now() - timedelta(days=31)
    WebhookDelivery.objects.filter(pk=fresh.pk).update(state=State.DELIVERED)
    WebhookDelivery.objects.filter(pk=old.pk).update(state=State.DELIVERED, created=long_ago)
    WebhookDelivery.objects.filter(pk=waiting.pk).update(created=long_ago)
    assert forget_deliveries() == 1
    assert set(WebhookDelivery.objects.all()) == {fresh, waiting}


def test_every_event_of_the_documentation_is_recorded_by_somebody():
    from tests import source

    recorded = {
        text
        for name in ("record_event", "record_events")
        for call in source.calls(source.files(*source.APPS), name)
        for keyword in call.keywords
        if keyword.arg == "name"
        for text in source.texts(keyword.value)
    }
    # Raters are quarantined by the floor that knows raters.
    assert recorded | {"rater.quarantined"} == set(EVENTS)
