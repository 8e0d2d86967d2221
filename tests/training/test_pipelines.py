"""A reward model, then a policy against it, by themselves; a failure stops them with its cause."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from inference.models import Version
from projects.services import SYSTEM
from tests.cast import Cast, error_of, make_cast
from tests.training.conftest import corrected, judged
from training.models import Pipeline, Policy, Run
from training.services.pipelines import start_pipeline, tick_pipelines
from training.services.policies import tick_policies
from training.tasks import tick_work


@pytest.fixture
def kitchen(base_model: Path, cast: Cast) -> Cast:
    judged(cast, 40)
    return cast


def begin(cast: Cast, name: str = "reward-rloo", **more: Any) -> Pipeline:
    return start_pipeline(project=cast.project, name=name, actor=SYSTEM, **more)


def finish(run: Run, *, kind: str = Version.Kind.REWARD) -> Version:
    """As the supervisor would, with a version of the project's base."""
    base = Version.objects.get(project=run.project, kind="base")
    version = Version.objects.create(
        project=run.project,
        number=Version.objects.filter(project=run.project).count() + 1,
        kind=kind,
        digest=f"sha256:{run.number}",
        manifest={"base": base.digest, "config": run.config},
    )
    Run.objects.filter(pk=run.pk).update(status=Run.Status.FINISHED, version=version)
    return version


def test_each_stage_begins_when_the_one_before_is_done_and_reads_what_it_made(kitchen: Cast):
    pipeline = begin(kitchen)
    [first] = pipeline.runs.all()
    assert (first.method, first.stage, first.status) == ("reward", 0, "queued")
    assert tick_pipelines() == 0, "it is not done"
    reward = finish(first)
    assert tick_pipelines() == 1
    assert tick_pipelines() == 0, "a stage begins once"
    second = pipeline.runs.get(stage=1)
    assert (second.method, second.reward) == ("rloo", reward)
    pipeline.refresh_from_db()
    assert pipeline.message == f"Run {second.number}, rloo, is queued: stage 2 of 2."
    finish(second, kind=Version.Kind.ADAPTER)
    tick_work()
    pipeline.refresh_from_db()
    assert (pipeline.status, pipeline.message) == ("finished", f"Run {second.number} finished and made v3.")


def test_a_later_stage_goes_on_with_the_adapter_of_an_earlier_one(kitchen: Cast):
    corrected(kitchen, 24)
    pipeline = begin(kitchen, "sft-reward-rloo", configs={"sft": {"lora_r": 4}})
    imitated = finish(pipeline.runs.get(), kind=Version.Kind.ADAPTER)
    tick_pipelines()
    judging = pipeline.runs.get(stage=1)
    assert (judging.method, judging.start, judging.config["lora_r"]) == ("reward", None, 16), "from the base"
    reward = finish(judging)
    tick_pipelines()
    last = pipeline.runs.get(stage=2)
    assert (last.method, last.start, last.reward) == ("rloo", imitated, reward)
    assert last.config["lora_r"] == 4, "it is that adapter"
    made = finish(last, kind=Version.Kind.ADAPTER)
    found = kitchen.get("lineage", {"version": f"v{made.number}"}).json()
    assert {run["number"] for run in found["runs"]} == {1, 2, 3}, "what it builds on taught it too"


def test_a_stage_on_the_way_is_no_candidate(kitchen: Cast):
    corrected(kitchen, 24)
    Policy.objects.create(project=kitchen.project, is_enabled=True, min_new_judgements=10, method="sft-dpo")
    [run] = tick_policies()
    assert run.pipeline is not None and run.method == "sft"
    on_the_way = finish(run, kind=Version.Kind.ADAPTER)
    tick_policies()
    assert not on_the_way.evaluations.exists()
    tick_pipelines()
    second = run.pipeline.runs.get(stage=1)
    assert (second.method, second.start) == ("dpo", on_the_way)


def test_a_failure_stops_it_with_its_cause(kitchen: Cast):
    pipeline = begin(kitchen)
    Run.objects.update(status=Run.Status.FAILED, cause=Run.Cause.OOM, message="Out of memory at step 3.")
    assert tick_pipelines() == 0
    pipeline.refresh_from_db()
    assert (pipeline.status, pipeline.finished is not None) == ("failed", True)
    assert pipeline.message == "Run 1, reward, failed (out of memory): Out of memory at step 3."
    assert pipeline.runs.count() == 1


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_stage_that_is_resumed_takes_its_pipeline_along(kitchen: Cast, end: str):
    pipeline = begin(kitchen)
    Run.objects.update(status=end)
    tick_pipelines()
    pipeline.refresh_from_db()
    assert (pipeline.status, pipeline.finished is None) == (end, False)
    assert kitchen.post("runs/1/resume", {}, key=kitchen.manage_key).status_code == 200
    tick_pipelines()
    pipeline.refresh_from_db()
    assert (pipeline.status, pipeline.finished) == ("running", None)
    assert pipeline.message == "Run 1, reward, is queued: stage 1 of 2."
    finish(pipeline.runs.get())
    assert tick_pipelines() == 1, "the next stage begins"


def test_a_stage_that_cannot_begin_stops_it_too(kitchen: Cast):
    pipeline = begin(kitchen)
    version = finish(pipeline.runs.get())
    Version.objects.filter(pk=version.pk).update(manifest={"base": "sha256:another"})
    tick_pipelines()
    pipeline.refresh_from_db()
    assert (pipeline.status, "rloo could not begin: " in pipeline.message) == ("failed", True)


def test_by_rest_it_is_one_thing(kitchen: Cast):
    made = kitchen.post("pipelines", {"name": "reward-rloo"}, key=kitchen.manage_key).json()
    assert (made["number"], made["status"], [run["method"] for run in made["runs"]]) == (
        1, "running", ["reward"],
    )  # fmt: skip
    assert kitchen.get("pipelines/1").json() == kitchen.get("pipelines").json()["items"][0]
    over = kitchen.post("pipelines/1/cancel", {}, key=kitchen.manage_key).json()
    assert (over["status"], over["runs"][0]["status"]) == ("cancelled", "cancelled")
    again = kitchen.post("pipelines/1/cancel", {}, key=kitchen.manage_key)
    assert error_of(again)["code"] == "pipeline_over"
    assert kitchen.get("pipelines/1", key=kitchen.foreign_key).status_code == 404
    assert kitchen.post("pipelines", {"name": "reward-rloo"}).status_code == 403


def test_its_filters_are_those_of_each_stage_that_reads_judgements(kitchen: Cast):
    filters = {"per_prompt_cap": 1, "since": "2020-01-01T00:00:00Z"}
    made = kitchen.post(
        "pipelines", {"name": "reward-rloo", "filters": filters}, key=kitchen.manage_key
    ).json()
    assert made["filters"] == filters
    [first] = Run.objects.all()
    assert (first.dataset.filters["per_prompt_cap"], first.dataset.filters["since"]) == (1, filters["since"])
    finish(first)
    tick_pipelines()
    second = Run.objects.get(stage=1)
    assert second.dataset.filters["since"] == filters["since"]
    assert second.dataset.filters["per_prompt_cap"] == 6, "bare prompts know no such cap"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "reward-rloo", "filters": {"since": "yesterday"}}, "filters.since"),
        ({"name": "reward-rloo", "filters": {"per_head_cap": 1}}, "filters.per_head_cap"),
        ({"name": "ppo-reward"}, "name"),
        ({"name": "reward-rloo", "configs": {"dpo": {}}}, "config"),
        ({"name": "reward-rloo", "configs": {"reward": {"epochs": 0}}}, "config"),
        ({"name": "sft-dpo", "configs": {"sft": {"lora_r": 8}, "dpo": {"lora_r": 16}}}, "config"),
    ],
)
def test_what_is_refused_leaves_nothing(kitchen: Cast, body: dict[str, Any], param: str):
    answer = kitchen.post("pipelines", body, key=kitchen.manage_key)
    assert (answer.status_code, error_of(answer)["param"]) == (422, param)
    assert not Pipeline.objects.exists()
    assert not Run.objects.exists()


def test_too_little_to_learn_from_is_said_at_once(base_model: Path, cast: Cast):
    judged(cast, 2)
    answer = cast.post("pipelines", {"name": "reward-rloo"}, key=cast.manage_key)
    assert error_of(answer)["code"] == "preflight_failed"
    assert not Pipeline.objects.exists()


def test_a_later_stage_with_too_little_data_is_said_before_the_first_begins(kitchen: Cast):
    corrected(kitchen, 24)
    body = {"name": "sft-dpo", "configs": {"dpo": {"batch_size": 512}}}
    answer = kitchen.post("pipelines", body, key=kitchen.manage_key)
    assert error_of(answer)["code"] == "preflight_failed"
    assert "batch_size is 512 and there are" in error_of(answer)["message"]
    assert not Run.objects.exists()


def test_a_policy_can_choose_one_and_starts_nothing_beside_it(kitchen: Cast):
    policy = Policy.objects.create(
        project=kitchen.project, is_enabled=True, min_new_judgements=10, method="reward-rloo"
    )
    [run] = tick_policies()
    assert run.pipeline is not None
    assert (run.pipeline.slot, run.pipeline.filters["per_prompt_cap"]) == ("judgements:after-run-0", 6)
    finish(run)
    judged(kitchen, 30, start=200)
    assert tick_policies() == [], "its second stage is still to come"
    assert policy.project.evaluations.count() == 0, "a reward model writes no answers"


def test_two_beats_begin_a_stage_once(transactional_db: None, base_model: Path):
    cast = make_cast()
    judged(cast, 40)
    pipeline = begin(cast)
    finish(pipeline.runs.get())
    barrier = threading.Barrier(3)
    failures: list[Exception] = []

    def beat() -> None:
        try:
            barrier.wait()
            tick_pipelines()
        except Exception as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=beat) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert pipeline.runs.count() == 2
