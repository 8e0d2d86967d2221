"""Compiling feedback: the same digest for the same cut-off, nothing of the gate, held-out prompts apart."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.utils import timezone

from feedback.services.judge import Judge
from feedback.services.record import (
    record_correction,
    record_flag,
    record_preference,
    record_rating,
    retract_feedback,
)
from inference.artifact import verify
from projects.errors import Invalid
from projects.services import Actor
from tests.cast import Cast, error_of
from tests.training.conftest import judged, vote
from training.models import Dataset
from training.services.compiler import EmptyDataset, compile_dataset, preview_dataset


def compiled(cast: Cast, **options) -> Dataset:
    return compile_dataset(project=cast.project, actor=Actor(user=cast.ada), **options)


def rows_of(dataset: Dataset, part: str = "train") -> list[dict[str, Any]]:
    return list(pq.read_table(dataset.folder / f"{part}-00000.parquet").to_pylist())


def test_preferences_and_corrections_become_rows_with_their_ids(cast: Cast):
    [first] = judged(cast, 1)
    prompt, [answer] = cast.answered_prompt("How long?", ["Eight."])
    correction, _ = record_correction(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=answer.id,
        text="Eight minutes.",
        source="ui",
        is_shown=True,
    )
    dataset = compiled(cast)
    rows = {row["prompt_id"]: row for row in rows_of(dataset)}
    assert rows[str(first.prompt_id)]["feedback_ids"] == [str(first.id)]
    corrected = rows[str(prompt.id)]
    assert corrected["prompt"] == prompt.messages
    assert corrected["chosen"] == [{"role": "assistant", "content": "Eight minutes."}]
    assert corrected["rejected"] == [{"role": "assistant", "content": "Eight."}]
    assert corrected["feedback_ids"] == [str(correction.id)]
    assert (dataset.number, dataset.rows, dataset.heldout_rows) == (1, 2, 0)
    assert verify(dataset.folder, expected_digest=dataset.digest)["counts"]["judges"] == 2


def test_the_same_filters_and_cutoff_give_the_same_digest_whatever_came_later(cast: Cast):
    rows = judged(cast, 12)
    first = compiled(cast)
    judged(cast, 3, start=50)
    retract_feedback(project=cast.project, judge=Judge(api_key=cast.api_key), feedback_id=rows[0].id)
    again = compiled(cast, cutoff=first.cutoff)
    assert again.digest == first.digest
    assert again.number == 2
    for name in ("train-00000.parquet", "heldout-00000.parquet"):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()
    now = compiled(cast)
    assert now.digest != first.digest
    assert now.rows + now.heldout_rows == 14


def test_a_superseded_judgement_counts_as_it_stood_at_the_cutoff(cast: Cast):
    _, (a, b) = cast.answered_prompt("Which?", ["One.", "Another one."])
    old = vote(cast, a, b)
    before = timezone.now()
    record_preference(
        project=cast.project,
        judge=Judge(api_key=cast.api_key),
        candidates=[a.id, b.id],
        ranks=[2, 1],
        supersedes=old.id,
        source="api",
        is_shown=True,
    )
    assert rows_of(compiled(cast, cutoff=before))[0]["chosen"][0]["content"] == "One."
    assert rows_of(compiled(cast))[0]["chosen"][0]["content"] == "Another one."


def test_gate_prompts_never_enter(cast: Cast):
    judged(cast, 3)
    prompt, (a, b) = cast.answered_prompt("For the gate?", ["Yes.", "Not here."], split="gate")
    vote(cast, a, b)
    record_correction(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=a.id,
        text="Yes, indeed.",
        source="ui",
        is_shown=True,
    )
    dataset = compiled(cast)
    assert dataset.drops["gate"] == 2
    assert str(prompt.id) not in {row["prompt_id"] for row in rows_of(dataset) + rows_of(dataset, "heldout")}


def test_ties_all_bad_and_stopped_are_left_out_and_counted(cast: Cast):
    judged(cast, 2)
    _, (a, b) = cast.answered_prompt("Equal?", ["This.", "That."])
    vote(cast, a, b, tie=True)
    _, (c, d) = cast.answered_prompt("Bad?", ["Bad.", "Worse."])
    record_preference(
        project=cast.project,
        judge=Judge(user=cast.bob),
        candidates=[c.id, d.id],
        all_bad=True,
        source="ui",
        is_shown=True,
    )
    prompt = cast.prompt("Cut?")
    vote(cast, cast.answer(prompt, "Cut of", state="stopped"), cast.answer(prompt, "A whole one."))
    assert compiled(cast).drops == {"tie": 1, "all_bad": 1, "stopped_chosen": 1}


def test_a_quarantined_answer_takes_its_pairs_out(cast: Cast):
    rows = judged(cast, 3)
    answer = rows[0].candidates.first().completion
    answer.quarantined = True
    answer.save(update_fields=["quarantined"])
    dataset = compiled(cast)
    assert (dataset.rows, dataset.drops) == (2, {"quarantined": 1})


def test_about_a_tenth_of_the_prompts_is_held_out_and_at_least_one(cast: Cast):
    judged(cast, 10)
    few = compiled(cast)
    assert few.heldout_rows >= 1
    assert few.rows + few.heldout_rows == 10
    train, heldout = rows_of(few), rows_of(few, "heldout")
    assert not {row["prompt_id"] for row in train} & {row["prompt_id"] for row in heldout}
    judged(cast, 90, start=100)
    many = compiled(cast)
    assert 4 <= many.heldout_rows <= 18
    # Where a prompt falls does not change with what comes after it.
    assert {row["prompt_id"] for row in rows_of(many)} >= {row["prompt_id"] for row in train} - {
        row["prompt_id"] for row in rows_of(many, "heldout")
    }


def test_filters(cast: Cast):
    judged(cast, 4)
    prompt, [answer] = cast.answered_prompt("By hand?", ["No."])
    record_correction(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=answer.id,
        text="By machine.",
        source="ui",
        is_shown=True,
    )
    prompt.tags = ["kitchen"]
    prompt.save(update_fields=["tags"])

    def count(**filters) -> int:
        preview = preview_dataset(project=cast.project, filters=filters)
        return preview.rows + preview.heldout_rows

    assert count() == 5
    assert count(kinds=["correction"]) == 1
    assert count(sources=["api"]) == 4
    assert count(tags=["kitchen"]) == 1
    record_rating(
        project=cast.project,
        judge=Judge(user=cast.bob),
        completion_id=answer.id,
        value=-1,
        source="ui",
        is_shown=True,
    )
    labels = preview_dataset(project=cast.project, format="unpaired", filters={"kinds": ["rating"]})
    assert labels.counts["judgements"] == 1
    other = {"kinds": ["rating"], "aspects": ["helpful"]}
    assert preview_dataset(project=cast.project, format="unpaired", filters=other).counts["judgements"] == 0
    assert count(per_rater_cap=3) == 4
    assert count(since=(timezone.now() + timedelta(days=1)).isoformat()) == 0
    assert Dataset.objects.count() == 0


@pytest.mark.parametrize(
    ("filters", "param"),
    [({"kind": ["preference"]}, "kind"), ({"sources": ["phone"]}, "sources.0"), ({"since": 5}, "since")],
)
def test_a_wrong_filter_is_named(cast: Cast, filters, param):
    with pytest.raises(Invalid) as caught:
        preview_dataset(project=cast.project, filters=filters)
    assert caught.value.param == param


def test_nothing_usable_is_an_error_that_says_why(cast: Cast):
    _, (a, b) = cast.answered_prompt("Equal?", ["This.", "That."])
    vote(cast, a, b, tie=True)
    with pytest.raises(EmptyDataset, match="1 tie") as refused:
        compiled(cast)
    assert refused.value.code == "empty_dataset"
    assert Dataset.objects.count() == 0


# --- REST ---------------------------------------------------------------------------------------------
def test_compile_list_look_and_download_by_rest(cast: Cast):
    judged(cast, 12)
    dry = cast.post("datasets", {"dry_run": True}, key=cast.manage_key)
    assert dry.status_code == 200
    assert dry.json()["rows"] + dry.json()["heldout_rows"] == 12
    assert Dataset.objects.count() == 0

    made = cast.post(
        "datasets", {"format": "preference", "filters": {"sources": ["api"]}}, key=cast.manage_key
    )
    assert made.status_code == 201, made.content
    body = made.json()
    assert body["digest"].startswith("sha256:")
    assert body["filters"]["per_prompt_cap"] == 6
    assert cast.get("datasets").json()["items"] == [body]
    assert cast.get("datasets/1").json() == body

    lines = b"".join(cast.get("datasets/1/rows").streaming_content).splitlines()
    assert len(lines) == body["rows"]
    assert json.loads(lines[0])["chosen"][0]["role"] == "assistant"
    shard = b"".join(cast.get("datasets/1/rows", {"as": "parquet", "part": "heldout"}).streaming_content)
    assert pq.read_table(io.BytesIO(shard)).num_rows == body["heldout_rows"]


def test_what_rest_refuses(cast: Cast):
    judged(cast, 3)
    later = (timezone.now() + timedelta(hours=1)).isoformat()
    assert (
        error_of(cast.post("datasets", {"cutoff": later}, key=cast.manage_key))["code"] == "cutoff_in_future"
    )
    assert error_of(cast.post("datasets", {"cutoff": "yesterday"}, key=cast.manage_key))["param"] == "cutoff"
    beyond = {"cutoff": "0001-01-01T00:00:00+23:00"}
    assert error_of(cast.post("datasets", beyond, key=cast.manage_key))["param"] == "cutoff"
    assert cast.post("datasets", {"format": "text"}, key=cast.manage_key).status_code == 422
    assert error_of(cast.post("datasets", {"colour": 1}, key=cast.manage_key))["code"] == "unknown_field"
    assert cast.post("datasets", {}).status_code == 403
    assert cast.post("datasets", {}, key=cast.manage_key).status_code == 201
    assert cast.get("datasets/1", key=cast.foreign_key).status_code == 404
    assert cast.get("datasets/2").status_code == 404
    assert cast.get("datasets/1/rows", {"as": "csv"}).status_code == 422
    assert cast.get("datasets", key="").status_code == 401


def test_a_damaged_dataset_is_not_handed_out(cast: Cast):
    judged(cast, 3)
    dataset = compiled(cast)
    shard = dataset.folder / "train-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert error_of(cast.get("datasets/1/rows"))["code"] == "dataset_damaged"


def test_what_flags_set_aside_is_left_out_as_of_the_cutoff(cast: Cast):
    [row, _] = judged(cast, 2)
    shown = row.candidates.first().completion
    before = timezone.now()
    flag, _ = record_flag(
        project=cast.project, judge=Judge(user=cast.carol), completion_id=shown.pk, reason="unsafe",
        source="ui", is_shown=True,
    )  # fmt: skip
    aside = timezone.now()
    assert compiled(cast, cutoff=before).rows == 2
    without = compiled(cast, cutoff=aside)
    assert (without.rows, without.drops) == (1, {"quarantined": 1})
    retract_feedback(project=cast.project, judge=Judge(user=cast.carol), feedback_id=flag.pk)
    assert compiled(cast).rows == 2
    again = compiled(cast, cutoff=aside)  # it can still be made as it was
    assert (again.digest, again.drops) == (without.digest, without.drops)
