"""From a label to what it taught, and from what serves back to the labels: page, API, index."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from feedback.services.judge import Judge
from feedback.services.record import retract_feedback
from inference.models import Deployment, Version
from projects.ids import uuid7
from projects.services import SYSTEM
from tests.cast import Cast, error_of
from tests.training.conftest import judged, vote
from training.models import Dataset, Evaluation, Run
from training.services.compiler import compile_dataset
from training.services.data.index import FEEDBACK, SOURCES, IdCollector, ids_of
from training.services.examples import gather_examples, heldout_pairs
from training.services.numbers import create_numbered


@pytest.fixture
def chain(cast: Cast, settings: Any, tmp_path: Path) -> dict[str, Any]:
    """Labels, a dataset of all but the last, a run, v2, a verdict on it, and its deployment."""
    settings.ARTIFACTS_DIR = tmp_path
    labels = judged(cast, 12)
    dataset = compile_dataset(project=cast.project, actor=SYSTEM)
    late = judged(cast, 1, start=50)[0]
    return {"labels": labels, "late": late, **taught(cast, dataset, number=2)}


def taught(
    cast: Cast, dataset: Dataset, *, number: int, kind: str = "adapter", **of_run: Any
) -> dict[str, Any]:
    """A finished run on a dataset, its version, a verdict and a deployment on it."""
    project = cast.project
    version = Version.objects.create(
        project=project, number=number, kind=kind, path=f"versions/{number}", digest=f"sha256:{number}"
    )
    run = create_numbered(Run, project=project, dataset=dataset, status="finished", version=version, **of_run)
    if kind == "reward":
        return {"dataset": dataset, "run": run, "version": version}
    evaluation = create_numbered(
        Evaluation, project=project, candidate=version, champion=cast.v1, prompt_ids=[], status="decided",
        verdict="promote", numbers={"win_rate": 0.7}, decided=timezone.now(),
    )  # fmt: skip
    deployment = create_numbered(
        Deployment, project=project, kind="promote", champion=version, previous=cast.v1, reason="It wins.",
        detail={"evaluation": evaluation.number},
    )  # fmt: skip
    verdict = {"evaluation": evaluation, "deployment": deployment}
    return {"dataset": dataset, "run": run, "version": version, **verdict}


def numbers(answer: dict[str, Any]) -> dict[str, list[int]]:
    return {name: [one["number"] for one in rows] for name, rows in answer.items() if name != "feedback"}


WHOLE = {"datasets": [1], "runs": [1], "versions": [2], "evaluations": [1], "deployments": [2]}


def test_a_label_leads_to_what_serves(cast: Cast, chain: dict[str, Any]):
    label = chain["labels"][3]
    answer = cast.get("lineage", {"feedback": str(label.pk)}).json()
    assert numbers(answer) == WHOLE
    assert answer["feedback"]["id"] == str(label.pk)
    assert answer["runs"][0] == {
        "number": 1, "method": "dpo", "status": "finished", "dataset": 1, "reward": None,
        "start": None, "version": "kitchen@v2",
    }  # fmt: skip
    assert answer["deployments"][0]["evaluation"] == 1
    late = cast.get("lineage", {"feedback": str(chain["late"].pk)}).json()
    assert not any(numbers(late).values()), "it came after the cut-off"


@pytest.mark.parametrize(
    ("start", "name"),
    [("dataset", "1"), ("run", "1"), ("version", "v2"), ("evaluation", "1"), ("deployment", "2")],
)
def test_each_of_them_leads_both_ways(cast: Cast, chain: dict[str, Any], start: str, name: str):
    answer = cast.get("lineage", {start: name}).json()
    assert numbers(answer) == WHOLE
    assert answer["datasets"][0]["judgements"] == 12


def test_the_labels_behind_a_version_are_listed_to_the_last(cast: Cast, chain: dict[str, Any]):
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 5}
    while True:
        page = cast.get("datasets/1/feedback", query).json()
        seen += [row["id"] for row in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert seen == sorted(str(row.pk) for row in chain["labels"])
    assert error_of(cast.get("datasets/1/feedback", {"cursor": "1:2"}))["code"] == "invalid_cursor"


def test_a_reward_models_labels_are_behind_what_it_rewarded(cast: Cast, chain: dict[str, Any]):
    prompts = compile_dataset(project=cast.project, format="prompts", actor=SYSTEM)
    reward = taught(cast, chain["dataset"], number=3, kind="reward")
    taught(cast, prompts, number=4, reward=reward["version"])
    back = numbers(cast.get("lineage", {"version": "v4"}).json())
    assert (back["datasets"], back["runs"], back["versions"]) == ([2, 1], [3, 2], [4])
    label = str(chain["labels"][0].pk)
    ahead = numbers(cast.get("lineage", {"feedback": label}).json())
    assert ahead["versions"] == [4, 3, 2]


def test_a_vote_on_the_gate_is_evidence(cast: Cast, chain: dict[str, Any]):
    prompt, [new, old] = cast.answered_prompt(
        "Gate?", ["New.", "Old."], split="gate", versions=[chain["version"], cast.v1]
    )
    label = vote(cast, new, old)
    Evaluation.objects.update(prompt_ids=[str(prompt.pk)])
    answer = cast.get("lineage", {"feedback": str(label.pk)}).json()
    assert (answer["datasets"], [one["number"] for one in answer["evaluations"]]) == ([], [1])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 422),
        ({"run": "1", "version": "v2"}, 422),
        ({"run": "99"}, 404),
        ({"run": "x"}, 404),
        ({"feedback": "x"}, 404),
        ({"colour": "red"}, 422),
    ],
)
def test_what_is_no_start(cast: Cast, chain: dict[str, Any], query: dict[str, str], status: int):
    answer = cast.get("lineage", query)
    assert answer.status_code == status
    error_of(answer)


def test_another_project_sees_nothing(cast: Cast, chain: dict[str, Any]):
    for query in ({"feedback": str(chain["labels"][0].pk)}, {"dataset": "1"}, {"version": "v2"}):
        assert cast.get("lineage", query, key=cast.foreign_key).status_code == 404
    assert cast.get("datasets/1/feedback", key=cast.foreign_key).status_code == 404


# --- the page --------------------------------------------------------------------------------------------
def page(cast: Cast, user: Any, path: str) -> Any:
    client = Client()
    client.force_login(user)
    return client.get(f"/p/kitchen/lineage/{path}")


def test_the_page_shows_the_way_and_who_judged_to_managers_alone(cast: Cast, chain: dict[str, Any]):
    body = page(cast, cast.ada, "version/v2/").content.decode()
    for words in (
        "Dataset 1",
        "Run 1",
        "Evaluation 1",
        "Deployment 2",
        "12 judgements",
        str(chain["labels"][0].pk),
    ):
        assert words in body, words
    assert body.count("<path d=") == 5, "a line from each to the next"
    body = page(cast, cast.bob, "version/v2/").content.decode()
    assert "Deployment 2" in body
    assert str(chain["labels"][0].pk) not in body
    assert page(cast, cast.eve, "version/v2/").status_code == 404
    assert page(cast, cast.ada, "version/v9/").status_code == 404
    assert page(cast, cast.ada, "moon/1/").status_code == 422


def test_a_label_taken_back_says_so_and_still_leads_on(cast: Cast, chain: dict[str, Any]):
    label = chain["labels"][0]
    retract_feedback(project=cast.project, judge=Judge(user=cast.ada), feedback_id=label.pk)
    body = page(cast, cast.bob, f"feedback/{label.pk}/").content.decode()
    assert "taken back" in body
    assert "v2" in body
    late = page(cast, cast.bob, f"feedback/{chain['late'].pk}/").content.decode()
    assert "No dataset holds it" in late


@pytest.mark.parametrize(
    ("said", "place"),
    [("v2", "version/v2/"), ("Dataset 1", "dataset/1/"), ("run/1", "run/1/")],
)
def test_what_is_pasted_leads_there(cast: Cast, said: str, place: str):
    assert page(cast, cast.bob, f"?of={said}").headers["Location"] == f"/p/kitchen/lineage/{place}"
    assert "names nothing" in page(cast, cast.bob, "?of=the+moon").content.decode()


# --- the index -------------------------------------------------------------------------------------------
def test_every_id_is_found_and_no_other(tmp_path: Path):
    ids = sorted({uuid7() for _ in range(1000)} | {UUID(int=0), UUID(int=2**128 - 1), UUID(int=5 << 8)})
    collector = IdCollector()
    collector.add(feedback=[str(id_) for id_ in reversed(ids)] + [ids[3].hex])
    collector.write(tmp_path)
    with ids_of(tmp_path, FEEDBACK) as found:
        assert len(found) == len(ids)
        assert all(id_ in found for id_ in ids)
        assert not any(uuid7() in found for _ in range(50))
        assert found.page(10, 3) == ids[10:13]
        assert found.page(len(ids) - 1, 5) == ids[-1:]
    with ids_of(tmp_path, SOURCES) as nothing:
        assert len(nothing) == 0
        assert ids[0] not in nothing
        assert nothing.page(0, 5) == []


def test_examples_to_evaluate_on_know_their_labels(cast: Cast, chain: dict[str, Any]):
    pairs = heldout_pairs(chain["dataset"])
    gathered = gather_examples(project=cast.project, pairs=pairs, actor=SYSTEM)
    with ids_of(gathered.folder, FEEDBACK) as found:
        held = [row for row in chain["labels"] if row.pk in found]
    assert len(held) == len(pairs) > 0
    assert [one.number for one in Dataset.objects.all()] == [2, 1]


def test_one_of_a_million_labels_is_found_among_a_hundred_datasets(cast: Cast, settings: Any, tmp_path: Path):
    settings.ARTIFACTS_DIR = tmp_path
    folder = tmp_path / "datasets/1"
    folder.mkdir(parents=True)
    label = judged(cast, 1)[0]
    raw = b"".join(number.to_bytes(16, "big") for number in range(1, 1_000_000)) + label.pk.bytes
    (folder / FEEDBACK).write_bytes(raw)
    Dataset.objects.bulk_create(
        Dataset(
            project=cast.project,
            number=number,
            format="preference",
            cutoff=timezone.now(),
            rows=1_000_000,
            digest="sha256:1",
            path="datasets/1",
        )
        for number in range(1, 101)
    )
    began = time.monotonic()
    answer = cast.get("lineage", {"feedback": str(label.pk)}).json()
    seconds = time.monotonic() - began
    assert len(answer["datasets"]) == 100
    # 200 ms are the goal on a quiet machine; reading the rows would take minutes.
    assert seconds < 5, seconds
