"""From votes and from score runs to what is drawn next; the random slice stays a slice of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.utils import timezone

from feedback.models import Score, Task
from feedback.services.draw import draw_tasks
from feedback.services.tasks import create_compare_task
from feedback.services.uncertainty import (
    chance_by_places,
    chance_by_scores,
    measure_uncertainty,
    uncertainty_of,
)
from feedback.services.workbench import update_workbench
from feedback.tasks import measure_leaderboards
from inference.artifact import write_manifest
from inference.models import Completion, Version
from projects.models import AuditEvent
from projects.services import SYSTEM
from tests.cast import Cast, error_of
from tests.training.conftest import vote
from training.models import Dataset, Run
from training.services.scores import import_scores


def version(cast: Cast, number: int, kind: str = "adapter") -> Version:
    return Version.objects.create(
        project=cast.project, number=number, kind=kind, path=f"v/{number}", digest=f"sha256:{number}"
    )


def ask(cast: Cast, *versions: Version) -> Task:
    count = Task.objects.count()
    prompt, answers = cast.answered_prompt(
        f"Question {count}?", [f"Answer {n}." for n in range(len(versions))], versions=versions
    )
    return create_compare_task(project=cast.project, prompt=prompt, completions=answers)


def scored(cast: Cast, reward: Version, scores: dict[Completion, float | None], number: int = 1) -> Run:
    """A finished score run, with its rows as the recipe publishes them."""
    dataset = Dataset.objects.create(
        project=cast.project, number=number, format="completions", cutoff=timezone.now(), rows=1, path="d/1"
    )
    run = Run.objects.create(
        project=cast.project,
        number=number,
        method="score",
        dataset=dataset,
        reward=reward,
        status="finished",
        finished=timezone.now(),
    )
    folder = run.folder / "artifact"
    folder.mkdir(parents=True)
    rows = [{"id": str(one.pk), "score": value, "tokens": 3} for one, value in scores.items()]
    schema = pa.schema([("id", pa.string()), ("score", pa.float64()), ("tokens", pa.int32())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "rows.parquet")
    write_manifest(folder, kind="rows", method="score", rows=len(rows))
    return run


def wish(cast: Cast, **weights: float) -> None:
    update_workbench(project=cast.project, actor=SYSTEM, weights=weights, random_share=0.2)


def measured(task: Task) -> float:
    task.refresh_from_db()
    return task.uncertainty


@pytest.fixture(autouse=True)
def artifacts(settings: Any, tmp_path: Path) -> None:
    settings.ARTIFACTS_DIR = tmp_path


# --- votes -----------------------------------------------------------------------------------------------
def test_versions_that_nobody_can_tell_apart_are_the_uncertain_ones(cast: Cast) -> None:
    v1, v2, v3 = cast.v1, version(cast, 2), version(cast, 3)
    for number in range(24):
        for one, other, wins in ((v1, v2, 24), (v1, v3, 12)):
            _, made = cast.answered_prompt(
                f"{other.number}: {number}?", ["Yes.", "No."], versions=[one, other]
            )
            better, worse = made if number < wins else reversed(made)
            vote(cast, better, worse, subject=f"s{number % 6}")
    clear, close, same, new = (
        ask(cast, v1, v2),
        ask(cast, v1, v3),
        ask(cast, v2, v2),
        ask(cast, v1, version(cast, 4)),
    )
    measure_leaderboards()
    assert measured(close) == 0, "where `uncertain` has no weight nothing is measured"
    wish(cast, uncertain=1)
    measure_leaderboards()
    assert measured(clear) < 0.05 < 0.5 < measured(close) <= 1
    assert (measured(same), measured(new)) == (1, 1), "nothing is known of these"
    assert measure_uncertainty(project=cast.project) == 0, "nothing came since"
    ask(cast, v1, v3)
    assert measure_uncertainty(project=cast.project) == 1, "a task that is new is measured"


# --- a reward model --------------------------------------------------------------------------------------
def test_a_score_run_decides_what_is_asked(cast: Cast) -> None:
    wish(cast, uncertain=1)
    v2, reward = version(cast, 2), version(cast, 3, "reward")
    tasks = [ask(cast, cast.v1, v2) for _ in range(12)]
    margins = {task: 0.25 * number for number, task in enumerate(tasks)}
    scores: dict[Completion, float | None] = {}
    for task, margin in margins.items():
        one, other = task.completions.order_by("pk")
        scores |= {one: 1.0 + margin, other: 1.0}
    run = scored(cast, reward, scores)
    assert import_scores() == [run]
    assert import_scores() == [], "once"
    assert AuditEvent.objects.get(action="scores.imported").detail["answers"] == 24
    measure_uncertainty(project=cast.project)
    found = [measured(task) for task in tasks]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1
    assert found[4] == pytest.approx(1 - abs(2 / (1 + 2.718281828**-1.0) - 1))
    draw_tasks(project=cast.project, kinds=["compare"])
    drawn = Task.objects.filter(strategy="uncertain").order_by("place").values_list("uncertainty", flat=True)
    assert list(drawn) == sorted(drawn, reverse=True)
    assert Task.objects.filter(strategy="random", probability__isnull=False).exists(), "always some at random"


def test_a_newer_reward_model_has_the_last_word_and_margins_need_one_model(cast: Cast) -> None:
    wish(cast, uncertain=1)
    old, new = version(cast, 2, "reward"), version(cast, 3, "reward")
    task = ask(cast, cast.v1, cast.v1)
    one, other = task.completions.order_by("pk")
    scored(cast, old, {one: 9.0, other: 0.0})
    scored(cast, new, {one: 1.0, other: None}, number=2)
    assert len(import_scores()) == 2
    assert dict(Score.objects.values_list("completion", "value")) == {one.pk: 1.0, other.pk: 0.0}
    measure_uncertainty(project=cast.project)
    assert measured(task) == 1, "scores of two models are not compared"


def test_a_score_run_whose_rows_are_damaged_is_noted_once(cast: Cast) -> None:
    task = ask(cast, cast.v1, cast.v1)
    run = scored(cast, version(cast, 2, "reward"), dict.fromkeys(task.completions.all(), 1.0))
    (run.folder / "artifact" / "rows.parquet").write_bytes(b"broken")
    import_scores()
    assert "trouble" in AuditEvent.objects.get(action="scores.imported").detail
    assert import_scores() == []
    assert not Score.objects.exists()


@pytest.mark.unit
def test_chances() -> None:
    assert chance_by_scores(2, 2) == 0.5
    assert chance_by_scores(-1e9, 1e9) == pytest.approx(0) and chance_by_scores(1e9, -1e9) == 1
    place = {"version": "a", "points": 100.0, "low": 0.0, "high": 200.0}
    assert chance_by_places(place, {**place, "version": "b"}) == 0.5
    assert chance_by_places(place, {**place, "version": "b", "points": -300.0}) > 0.99
    assert chance_by_places(place, None) == 0.5
    assert uncertainty_of([0.5, 1.0]) == 0.5


# --- who drew it -----------------------------------------------------------------------------------------
def test_programs_see_which_strategy_drew_a_task(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback.services.draw.WINDOW", 10)
    wish(cast, newest=1)
    for _ in range(20):
        ask(cast, cast.v1, cast.v1)
    draw_tasks(project=cast.project, kinds=["compare"])
    every = cast.get("tasks", {"limit": 200}).json()["items"]
    assert len(every) == 20 and len(every[0]["completion_ids"]) == 2
    drawn = [one["strategy"] for one in every if one["strategy"]]
    assert (drawn.count("random"), drawn.count("newest")) == (2, 8)
    newest = cast.get("tasks", {"strategy": "newest"}).json()["items"]
    assert {one["probability"] for one in newest} == {None}
    sample = cast.get("tasks", {"kind": "compare", "sample": "random"}).json()["items"]
    assert {one["id"] for one in every if one["strategy"] == "random"} <= {one["id"] for one in sample}
    assert cast.get("tasks", key=cast.foreign_key).json()["items"] == []
    assert error_of(cast.get("tasks", {"sample": "random"}))["param"] == "kind"
    assert error_of(cast.get("tasks", {"strategy": "luck"}))["param"] == "strategy"
