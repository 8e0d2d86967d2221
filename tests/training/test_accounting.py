"""What learning cost: by run, version and day, in a window; and what a point of win rate cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Version
from tests.cast import Cast, error_of
from training.models import Dataset, Evaluation, Policy, Run
from training.recipes.accounting import PF_DAY, Compute, Weights
from training.services.account import account_of
from training.services.numbers import create_numbered

WEIGHTS = Weights(matrices=100, trained_upwards=80, adapter=10)


def compute(**tokens: int) -> dict[str, Any]:
    """As a recipe writes it."""
    return Compute(weights=WEIGHTS, tokens=tokens).facts(0)


def ran(cast: Cast, began: datetime, hours: float | None, *, method: str = "dpo", **fields: Any) -> Run:
    project = cast.project
    dataset = Dataset.objects.filter(project=project).first() or create_numbered(
        Dataset, project=project, format="preference", cutoff=began, rows=1, digest="sha256:1", path="none"
    )
    ended = began + timedelta(hours=hours) if hours is not None else None
    status = "finished" if ended else "running"
    fields = {"compute": {}, "status": status, **fields}
    return create_numbered(
        Run, project=project, dataset=dataset, method=method, started=began, finished=ended, **fields
    )


def version(cast: Cast, number: int, *, rate: float | None = None, kind: str = "adapter") -> Version:
    made = Version.objects.create(project=cast.project, number=number, kind=kind, digest=f"sha256:{number}")
    if rate is not None:
        create_numbered(
            Evaluation, project=cast.project, candidate=made, champion=cast.v1, prompt_ids=[],
            status="decided", verdict="promote", numbers={"win_rate": rate},
        )  # fmt: skip
    return made


def test_flops_are_told_by_what_the_devices_did(cast: Cast):
    now = timezone.now()
    run = ran(cast, now - timedelta(hours=3), 2, compute=compute(train=1000, reference=500, generation=300))
    total = account_of(cast.project, since=now - timedelta(days=1)).total
    forward = 1000 * (2 * 100 + 2 * 10) + 500 * 2 * 100
    backward = 1000 * (2 * 80 + 2 * 10 + 2 * 10)
    assert (total.forward, total.backward) == pytest.approx((forward, backward))
    assert total.generation == pytest.approx(300 * 220)
    assert total.flops == pytest.approx(run.compute["flops"])
    assert total.pf_days == pytest.approx(run.compute["flops"] / PF_DAY)
    assert total.device_hours == pytest.approx(2)
    assert total.tokens == {"train": 1000, "reference": 500, "generation": 300}


def test_a_window_holds_what_lies_inside_it(cast: Cast):
    now = timezone.now()
    ran(cast, now - timedelta(hours=5), 4, compute=compute(train=1000))
    ran(cast, now - timedelta(days=40), 2, compute=compute(train=1000))
    ran(cast, now - timedelta(minutes=30), None, method="sft")
    found = account_of(cast.project, since=now - timedelta(hours=3), until=now)
    assert [one.run.method for one in found.runs] == ["sft", "dpo"]
    assert found.runs[1].cost.device_hours == pytest.approx(2)
    assert found.runs[1].cost.tokens == {"train": 500}, "half of it lay before"
    assert found.runs[0].cost.device_hours == pytest.approx(0.5)
    assert sum(sum(hours.values()) for _, hours in found.days) == pytest.approx(found.total.device_hours)


def test_days_are_those_of_the_pages_and_empty_ones_count(cast: Cast):
    noon = timezone.localtime().replace(hour=12, minute=0, second=0, microsecond=0)
    ran(cast, noon - timedelta(days=2, hours=14), 4)  # over midnight
    days = account_of(cast.project, since=noon - timedelta(days=4), until=noon).days
    assert [hours.get("dpo", 0) for _, hours in days] == pytest.approx([0, 2, 2, 0, 0])


def test_a_point_of_win_rate_costs_all_that_was_run_for_it(cast: Cast):
    began = timezone.now() - timedelta(hours=20)
    reward = version(cast, 2, kind="reward")
    ran(cast, began, 1, method="reward", version=reward)
    better, worse, unjudged = version(cast, 3, rate=0.6), version(cast, 4, rate=0.45), version(cast, 5)
    ran(cast, began, 3, method="rloo", version=better, reward=reward)
    ran(cast, began, 1, method="evaluate", judged=better)
    ran(cast, began, 1, version=worse)
    ran(cast, began, 1, version=unjudged)
    rows = {one.number: one for one in account_of(cast.project, since=began - timedelta(days=1)).versions}
    assert rows[3].runs == [1, 2, 3]
    assert rows[3].cost.device_hours == pytest.approx(5)
    assert (rows[3].points, rows[3].hours_per_point) == pytest.approx((10, 0.5))
    assert rows[4].points == pytest.approx(-5)
    assert rows[4].hours_per_point is None
    assert (rows[5].win_rate, rows[5].hours_per_point) == (None, None)


def test_by_rest_with_budgets_and_what_was_served(cast: Cast):
    ran(cast, timezone.now() - timedelta(hours=3), 1, compute=compute(train=1000))
    Policy.objects.create(project=cast.project, week_hours=4.0)
    cast.answered_prompt("How?", ["So."])
    body = cast.get("accounting", {"window": "7d"}).json()
    assert body["total"]["device_hours"] == pytest.approx(1)
    assert body["runs"][0]["flops"]["backward"] > 0
    assert body["budgets"] == [{"period": "in seven days", "used": pytest.approx(1), "limit": 4.0}]
    assert body["served"] == {"answers": 1, "tokens_in": 12, "tokens_out": 1}
    assert cast.get("accounting", key=cast.foreign_key).json()["runs"] == []
    assert error_of(cast.get("accounting", {"window": "1y"}))["param"] == "window"


def test_the_page_draws_it_and_says_the_same_in_a_table(cast: Cast):
    client = Client()
    client.force_login(cast.ada)
    empty = client.get("/p/kitchen/accounting/").content.decode()
    assert "No run held a device" in empty
    ran(
        cast,
        timezone.now() - timedelta(hours=3),
        2,
        compute=compute(train=9),
        version=version(cast, 2, rate=0.7),
    )
    ran(cast, timezone.now() - timedelta(hours=3), 1, method="sft")
    answer = client.get("/p/kitchen/accounting/?window=7d")
    assert [one.number for one in answer.context["account"].versions] == [2]
    bars = answer.context["bars"]
    assert bars.methods == ["dpo", "sft"]
    tall = {part.series: part.height for part in bars.parts}
    assert sum(part.height for part in bars.parts if part.series == 0) == pytest.approx(
        2 * sum(part.height for part in bars.parts if part.series == 1), abs=0.5
    ), tall
    assert 'class="bar bar-1"' in answer.content.decode()
    client.force_login(cast.bob)
    assert client.get("/p/kitchen/accounting/").status_code == 404
