"""The loop page's numbers, and the metrics by REST."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from feedback.services.judge import Judge
from feedback.services.record import record_rating
from inference.services.deployments import current_deployment
from projects.services import SYSTEM
from tests.cast import Cast, error_of
from tests.inference.adapters import new_version
from tests.training.conftest import judged, vote
from training.models import Evaluation, Policy, Run
from training.services.compiler import compile_dataset
from training.services.loop import loop_state, quality_rows
from training.services.runs import create_run


def test_a_new_project_has_a_live_version_and_nothing_else(cast: Cast):
    state = loop_state(cast.project)
    assert state["prompts"] == {"total": 0, "train": 0, "gate": 0, "audit": 0, "today": 0}
    assert (state["judgements"]["total"], state["judgements"]["waiting"]) == (0, 0)
    assert (state["dataset"], state["run"], state["evaluation"]) == (None, None, None)
    live = state["live"]
    assert (live["version"], live["deployment"], live["kind"], live["previous"]) == (
        "kitchen@v1",
        1,
        "first",
        None,
    )
    assert live["since"] == current_deployment(cast.project).created
    assert state["serving"]["ttft_ms_p50"] is None
    assert state["policy"] == {
        "is_enabled": False, "next": "No policy: a manager starts runs.", "approval": "manager",
    }  # fmt: skip
    assert [row["version"] for row in state["quality_by_version"]] == ["kitchen@v1"]


def test_each_station_shows_its_last(cast: Cast, tmp_path: Path):
    judged(cast, 24)
    gate, (new, old) = cast.answered_prompt("Gate?", ["New.", "Old."], split="gate")
    vote(cast, new, old)
    dataset = compile_dataset(project=cast.project, actor=SYSTEM)
    judged(cast, 2, start=60)
    run = create_run(project=cast.project, dataset=dataset, actor=SYSTEM)
    Run.objects.filter(pk=run.pk).update(
        status=Run.Status.RUNNING, step=1, total_steps=4, metrics={"loss": 0.5, "seconds_left": 9.0}
    )
    version = new_version(cast.project, tmp_path)
    Evaluation.objects.create(
        project=cast.project, number=1, candidate=version, champion=cast.v1, prompt_ids=[str(gate.id)],
        status="decided", verdict="promote", reason="It won.",
        numbers={"win_rate": 0.8, "ci_low": 0.7, "ci_high": 0.9},
    )  # fmt: skip
    Policy.objects.create(project=cast.project, is_enabled=True, min_new_judgements=10)

    state = loop_state(cast.project)
    assert state["prompts"] == {"total": 27, "train": 26, "gate": 1, "audit": 0, "today": 27}
    judgements = state["judgements"]
    assert (judgements["total"], judgements["today"], judgements["waiting"]) == (27, 27, 2)
    assert judgements["by_kind"]["preference"] == 27
    assert (state["dataset"]["number"], state["dataset"]["digest"]) == (1, dataset.digest)
    assert (state["run"]["status"], state["run"]["progress"], state["run"]["seconds_left"]) == (
        "running",
        0.25,
        9.0,
    )
    assert (state["evaluation"]["candidate"], state["evaluation"]["verdict"]) == ("kitchen@v2", "promote")
    assert state["serving"]["ttft_ms_p50"] == 80.0
    assert state["policy"]["next"] == "Next run after 8 more judgements."


def test_quality_by_version_from_thumbs_battles_and_the_gate(cast: Cast, tmp_path: Path):
    version = new_version(cast.project, tmp_path)
    _, (new, old) = cast.answered_prompt("One?", ["New.", "Old."], versions=[version, cast.v1])
    vote(cast, new, old)
    for subject, value in (("a", 1), ("b", 1), ("c", -1)):
        record_rating(
            project=cast.project, judge=Judge(api_key=cast.api_key, subject=subject), completion_id=new.id,
            value=value, source="api", is_shown=True,
        )  # fmt: skip
    base, better = quality_rows(cast.project)
    assert (base["number"], base["is_live"], base["win_rate"], base["battles"]) == (1, True, 0.0, 1)
    assert (better["number"], better["is_live"], better["win_rate"], better["thumbs"]) == (2, False, 1.0, 3)
    assert better["thumbs_up"] == pytest.approx(2 / 3)
    assert base["thumbs_up"] is None


def test_metrics_by_rest(cast: Cast, tmp_path: Path):
    version = new_version(cast.project, tmp_path)
    _, (new, old) = cast.answered_prompt("One?", ["New.", "Old."], versions=[version, cast.v1])
    vote(cast, new, old)
    body = cast.get("metrics", {"window": "1h"}).json()
    assert body["window_seconds"] == 3600
    assert [row["version"] for row in body["versions"]] == ["kitchen@v2", "kitchen@v1"]
    assert body["versions"][0]["latency"]["ttft_ms_p50"] == 80.0
    assert body["versions"][0]["quality"]["win_rate"] == 1.0
    type(new).objects.update(created=timezone.now() - timedelta(days=2))
    old_news = cast.get("metrics").json()["versions"]
    assert {row["latency"] for row in old_news} <= {None}


@pytest.mark.parametrize("window", ["", "1", "1y", "0h", "-1h", "99999d", "1h\n"])
def test_a_window_is_a_number_and_a_unit(cast: Cast, window: str):
    assert error_of(cast.get("metrics", {"window": window}))["param"] == "window"


def test_who_may(cast: Cast):
    assert cast.get("metrics", key="").status_code == 401
    assert cast.get("metrics", {"colour": "red"}).status_code == 422
    assert cast.post("metrics", {}, key=cast.manage_key).status_code == 405
