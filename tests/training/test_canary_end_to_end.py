"""A canary on a real engine and a real web server: its share meets it, and it goes up or back.

Whoever asks is a program's end user, by whose id the share goes; the ids are chosen so that each share is met
with a handful of requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.utils import timezone

from inference.models import Completion, Deployment, Version
from inference.services.prompts import hash_share
from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.processes import Process
from training.models import Policy, Rollout
from training.services.rollouts import tick_rollouts

pytestmark = [pytest.mark.model, pytest.mark.slow]
ANSWERS, JUDGEMENTS = 6, 4  # of the canary, that each share asks for
SHARES = (0.0, 0.01, 0.05, 0.25, 1.0)


@pytest.fixture
def http(web: Process, cast: Cast) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {cast.manage_key}"}
    with httpx.Client(base_url=str(web.url), headers=headers, timeout=60, trust_env=False) as client:
        yield client


def users(cast: Cast, low: float, high: float, count: int, *, name: str) -> list[str]:
    """Ids whose place is in [low, high)."""
    found = (f"{name}-{number}" for number in range(1_000_000))
    inside = (one for one in found if low <= hash_share(cast.project.salt, one) < high)
    return [next(inside) for _ in range(count)]


def ask(http: httpx.Client, user: str, *, value: int) -> str:
    """One question of a program's end user and their thumb; the version that answered."""
    question = {"role": "user", "content": f"What does {user} want?"}
    body = {"model": "kitchen", "messages": [question], "user": user, "max_tokens": 4}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    thumb = {
        "kind": "rating",
        "completion_id": answer.json()["choices"][0]["completion_id"],
        "subject": user,
        "aspect": "thumbs",
        "value": value,
    }
    assert http.post("/api/v1/feedback", json=thumb).status_code == 201
    return str(answer.json()["model"])


def begin(http: httpx.Client, cast: Cast, tmp_path: Path) -> Version:
    Policy.objects.create(
        project=cast.project, canary_minutes=0, canary_answers=ANSWERS, canary_judgements=JUDGEMENTS
    )
    version = new_version(cast.project, tmp_path)
    body: Any = {"version": version.label, "canary": True, "override": True, "reason": "To see."}
    answer = http.post("/api/v1/deployments", json=body)
    assert answer.status_code == 201, answer.text
    return version


def test_it_goes_up_to_all_and_its_watch_ends(
    http: httpx.Client, cast: Cast, engine: Process, tmp_path: Path
) -> None:
    version = begin(http, cast, tmp_path)
    for step, (before, share) in enumerate(pairwise(SHARES)):
        rollout = Rollout.objects.get()
        assert (rollout.share, rollout.step) == (share, step)
        inside = users(cast, before, share, ANSWERS, name=f"step-{step}")
        outside = users(cast, share, 1.0, ANSWERS, name=f"step-{step}") if share < 1 else []
        for new, old in zip(inside, outside or inside, strict=True):
            assert ask(http, new, value=1) == version.label
            assert not outside or ask(http, old, value=1) == cast.v1.label
        tick_rollouts()
    assert Deployment.objects.latest("number").champion == version
    rollout = Rollout.objects.get()
    assert (rollout.status, rollout.share) == ("watching", 1.0)
    tick_rollouts(now=timezone.now() + timedelta(hours=rollout.plan["watch_hours"] + 1))
    rollout.refresh_from_db()
    assert rollout.status == "done", rollout.message
    failed = Completion.objects.exclude(state="finished")
    assert not failed.exists()


def test_people_who_find_it_worse_send_it_back(
    http: httpx.Client, cast: Cast, engine: Process, tmp_path: Path
) -> None:
    version = begin(http, cast, tmp_path)
    inside = users(cast, 0.0, 0.01, 60, name="sad")
    outside = users(cast, 0.01, 1.0, 60, name="glad")
    for place, (new, old) in enumerate(zip(inside, outside, strict=True)):
        assert ask(http, old, value=1) == cast.v1.label
        assert ask(http, new, value=-1) == version.label
        if place % 5 == 4:
            tick_rollouts()
            rollout = Rollout.objects.get()
            if rollout.status == "rolled_back":
                break
    assert rollout.status == "rolled_back", rollout.message
    assert rollout.share <= 0.05
    assert "worse" in rollout.message or "thumb down" in rollout.message
    latest = Deployment.objects.latest("number")
    assert (latest.kind, latest.champion, latest.canary) == ("rollback", cast.v1, None)
    assert ask(http, inside[0], value=1) == cast.v1.label, "who met it is answered by the one before"
