"""Rate limits: so much a minute for a key and for a person, counted over all processes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from projects.errors import TooMany
from projects.ids import uuid7
from projects.limits import forget_held, forget_windows, spend
from projects.models import RateWindow
from tests.cast import Cast, error_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def a_new_process() -> None:
    forget_held()


def test_a_key_above_its_limit_is_told_when_to_come_back(cast: Cast, settings: Any):
    settings.RATE_LIMIT_KEY = 3
    left = []
    for _ in range(3):
        response = cast.get("prompts")
        assert response.status_code == 200
        left.append(response.headers["RateLimit-Remaining"])
    assert left == ["2", "1", "0"]
    refused = cast.get("prompts")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit-Limit"] == "3" and refused.headers["RateLimit-Remaining"] == "0"
    assert refused.headers["RateLimit-Reset"] == refused.headers["Retry-After"]
    assert cast.get("prompts", key=cast.manage_key).status_code == 200, "another key has its own"


@pytest.mark.django_db(transaction=True)
def test_the_openai_endpoints_count_as_well(cast: Cast, settings: Any):
    settings.RATE_LIMIT_KEY = 1
    assert cast.get("prompts").status_code == 200
    refused = cast.get("/v1/models")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limited")
    assert refused.headers["RateLimit-Remaining"] == "0"


def test_a_limit_of_nought_is_none(cast: Cast, settings: Any):
    settings.RATE_LIMIT_KEY = 0
    assert "RateLimit-Limit" not in cast.get("prompts").headers
    assert not RateWindow.objects.exists()


def test_a_person_who_posts_faster_than_anybody_reads(cast: Cast, settings: Any):
    settings.RATE_LIMIT_RATER = 2
    cast.client.force_login(cast.bob)
    path = f"/p/kitchen/judgements/{uuid7()}/retract"
    assert [cast.client.post(path).status_code for _ in range(2)] == [404, 404]
    refused = cast.client.post(path)
    assert refused.status_code == 429 and "Retry-After" in refused.headers
    assert cast.client.get("/p/kitchen/").status_code == 200, "reading goes on"


def test_processes_share_a_limit_and_a_small_one_is_exact():
    given = 0
    for _ in range(10):  # each a new process
        forget_held()
        for _ in range(20):
            try:
                spend("key:a", limit=50, now=1_000.0)
            except TooMany:
                break
            given += 1
    assert given == 50
    forget_held()
    assert spend("key:a", limit=50, now=1_060.0).remaining == 49, "the next minute is a new one"


def test_a_large_limit_is_never_exceeded_and_costs_a_write_a_hundredth(django_assert_max_num_queries: Any):
    given = 0
    with django_assert_max_num_queries(360):
        while True:
            try:
                spend("key:b", limit=1_000, now=2_000.0)
            except TooMany:
                break
            given += 1
    assert given == 1_000
    assert RateWindow.objects.get(caller="key:b").used == 1_000


def test_windows_that_are_over_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    spend("key:c", limit=5, now=3_000.0)
    monkeypatch.setattr(time, "time", lambda: 3_100.0)
    assert forget_windows() == 0
    monkeypatch.setattr(time, "time", lambda: 9_000.0)
    assert forget_windows() == 1
