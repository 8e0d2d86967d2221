"""Every format of a dataset, from what was really recorded; and the same bytes on every database."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from django.utils import timezone

from feedback.models import Candidate, Correction, Preference, Rating
from feedback.services.judge import Judge
from feedback.services.raters import quarantine_rater, restore_rater, set_weight
from feedback.services.record import record_correction, record_preference, record_rating
from inference.models import Completion, Prompt
from projects.errors import Invalid
from projects.services import Actor
from tests.cast import Cast
from tests.training.conftest import judged, vote
from training.models import Dataset, Document
from training.services.compiler import EmptyDataset, Preview, compile_dataset, preview_dataset
from training.services.data import overlap, rows, shards, source


def compiled(cast: Cast, format_: str, **filters: Any) -> Dataset:
    return compile_dataset(project=cast.project, format=format_, filters=filters, actor=Actor(user=cast.ada))


def preview(cast: Cast, format_: str = "preference", **filters: Any) -> Preview:
    return preview_dataset(project=cast.project, format=format_, filters=filters)


def rows_of(dataset: Dataset, *parts: str) -> list[dict[str, Any]]:
    """The rows of both parts, or of those that are named."""
    return [
        row
        for part in parts or ("train", "heldout")
        for path in shards.shard_paths(dataset.folder, part)
        for row in pq.read_table(path).to_pylist()
    ]


def said_of(dataset: Dataset) -> dict[str, bool]:
    return {row["completion"][0]["content"]: row["label"] for row in rows_of(dataset)}


def thumb(cast: Cast, answer: Completion, value: int, *, subject: str = "") -> Rating:
    row, _ = record_rating(
        project=cast.project,
        judge=Judge(api_key=cast.api_key, subject=subject),
        completion_id=answer.pk,
        value=value,
        source="api",
        is_shown=True,
    )
    return row


def correct(cast: Cast, answer: Completion, text: str) -> Correction:
    judge = Judge(user=cast.bob)
    row, _ = record_correction(
        project=cast.project, judge=judge, completion_id=answer.pk, text=text, source="ui", is_shown=True
    )
    return row


def scaled(cast: Cast, answer: Completion, value: int, *, judge: str) -> Rating:
    """A rating of an aspect with a scale."""
    return Rating.objects.create(
        project=cast.project, completion=answer, aspect="helpful", value=value, judge=judge, source="api"
    )


# --- what each format is made of ----------------------------------------------------------------------
def test_no_margin_is_none_in_numbers(cast: Cast):
    """TRL's RewardTrainer takes the column `margin` where it is there, and cannot take a null in it."""
    _, [one, other] = cast.answered_prompt("How long?", ["Eight minutes.", "Long."])
    vote(cast, one, other)
    correct(cast, other, "Nine minutes.")
    made = rows_of(compiled(cast, "preference"))
    assert len(made) >= 2
    assert {row["margin"] for row in made} == {0.0}


def test_demonstrations_are_corrections_and_good_answers_where_asked(cast: Cast):
    _, [wrong] = cast.answered_prompt("How long?", ["Eight."])
    correction = correct(cast, wrong, "Eight minutes.")
    prompt, [liked, disliked] = cast.answered_prompt("How hot?", ["Boiling.", "Cold."])
    up = thumb(cast, liked, 1)
    thumb(cast, disliked, -1)

    [row] = rows_of(compiled(cast, "sft"))
    assert row["completion"] == [{"role": "assistant", "content": "Eight minutes."}]
    assert row["feedback_ids"] == [str(correction.pk)]
    both = compiled(cast, "sft", good_answers=True)
    by_text = {row["completion"][0]["content"]: row for row in rows_of(both)}
    assert by_text.keys() == {"Eight minutes.", "Boiling."}
    assert by_text["Boiling."]["feedback_ids"] == [str(up.pk)]
    assert by_text["Boiling."]["prompt_id"] == str(prompt.pk)
    assert both.drops == {"not_good": 1}


def test_labels_come_from_thumbs_corrections_and_what_is_all_bad(cast: Cast):
    _, [liked, disliked] = cast.answered_prompt("How hot?", ["Boiling.", "Cold."])
    thumb(cast, liked, 1)
    thumb(cast, disliked, -1)
    _, [wrong] = cast.answered_prompt("How long?", ["Eight."])
    correct(cast, wrong, "Eight minutes.")
    _, [a, b] = cast.answered_prompt("Bad?", ["Bad.", "Worse."])
    record_preference(
        project=cast.project,
        judge=Judge(user=cast.bob),
        candidates=[a.pk, b.pk],
        all_bad=True,
        source="ui",
        is_shown=True,
    )
    _, [c, d] = cast.answered_prompt("Which?", ["This.", "That."])
    vote(cast, c, d)
    dataset = compiled(cast, "unpaired")
    assert said_of(dataset) == {
        "Boiling.": True,
        "Cold.": False,
        "Eight minutes.": True,
        "Eight.": False,
        "Bad.": False,
        "Worse.": False,
    }
    assert dataset.drops == {"only_relative": 1}
    unpaired = said_of(compiled(cast, "unpaired", unpair=True))
    assert (unpaired["This."], unpaired["That."]) == (True, False)


def test_thumbs_of_several_are_a_vote_and_a_draw_is_no_label(cast: Cast):
    _, [a, b] = cast.answered_prompt("How?", ["So.", "Not so."])
    ids = [thumb(cast, a, value, subject=who).pk for who, value in (("x", 1), ("y", 1), ("z", -1))]
    thumb(cast, b, 1, subject="x")
    thumb(cast, b, -1, subject="y")
    dataset = compiled(cast, "unpaired")
    [row] = rows_of(dataset)
    assert (row["label"], row["feedback_ids"]) == (True, [str(id_) for id_ in ids[:2]])
    assert dataset.drops == {"outvoted": 3}


def test_a_strict_and_a_kind_rater_mean_the_same_by_other_numbers(cast: Cast):
    """On a scale of 1 to 5: 3 is high praise of one and a reproof of the other."""
    _, answers = cast.answered_prompt("How?", [f"Answer {n}." for n in range(20)])
    for place, answer in enumerate(answers[:10]):
        scaled(cast, answer, 1 if place else 3, judge="key:1:strict")
    for place, answer in enumerate(answers[10:]):
        scaled(cast, answer, 5 if place else 3, judge="key:1:kind")
    said = said_of(compiled(cast, "unpaired", per_prompt_cap=0))
    assert said["Answer 0."] is True
    assert said["Answer 10."] is False
    pairs = rows_of(compiled(cast, "preference", rating_gap=1.2))
    assert (pairs[0]["chosen"][0]["content"], pairs[0]["rejected"][0]["content"]) == (
        "Answer 0.",
        "Answer 10.",
    )


def test_prompts_are_all_of_the_training_split_judged_or_not(cast: Cast):
    asked = [cast.prompt(f"What is number {number}?") for number in range(12)]
    cast.prompt("For the gate?", split="gate")
    dataset = compiled(cast, "prompts")
    found = rows_of(dataset)
    assert sorted(row["prompt_id"] for row in found) == sorted(str(prompt.pk) for prompt in asked)
    assert dataset.heldout_rows >= 1
    assert dataset.drops == {"gate": 1}
    assert found[0]["feedback_ids"] == []


def test_text_is_imported_once_and_compiled(cast: Cast):
    lines = [json.dumps({"text": f"Chapter {n}: eggs.", "tags": ["book"] if n else []}) for n in range(3)]
    body = "\n".join([*lines, lines[0], '{"text": "  "}', "{"]).encode()
    kind = "application/x-ndjson"
    answer = cast.post("documents", body, content_type=kind).json()
    assert (answer["created"], answer["existing"], answer["failed"]) == (3, 1, 2)
    assert [error["line"] for error in answer["errors"]] == [5, 6]
    assert cast.post("documents", body, content_type=kind).json()["created"] == 0
    assert cast.post("documents", b"", content_type=kind).status_code == 422

    dataset = compiled(cast, "text")
    assert [row["text"] for row in rows_of(dataset)] == [f"Chapter {n}: eggs." for n in range(3)]
    assert {row["document_id"] for row in rows_of(dataset)} == {str(one.pk) for one in Document.objects.all()}
    assert compiled(cast, "text", tags=["book"]).rows == 2
    cast.prompt("Where do eggs come from?")
    texts = [row["text"] for row in rows_of(compiled(cast, "text", texts=["prompts"]))]
    assert texts == ["Where do eggs come from?"]


def test_an_empty_format_says_what_to_collect(cast: Cast):
    for format_, said in (("sft", "corrections"), ("unpaired", "thumbs"), ("text", "Import documents")):
        with pytest.raises(EmptyDataset, match=said):
            compiled(cast, format_)


def test_a_filter_of_judgements_says_nothing_about_prompts(cast: Cast):
    with pytest.raises(Invalid, match="about judgements"):
        preview(cast, "prompts", kinds=["rating"])


# --- what is let in -----------------------------------------------------------------------------------
def test_filters_of_raters_versions_and_weights_as_of_the_cutoff(cast: Cast):
    judged(cast, 4)
    _, [answer] = cast.answered_prompt("By hand?", ["No."])
    correct(cast, answer, "By machine.")

    def count(**filters: Any) -> int:
        made = preview(cast, **filters)
        return made.rows + made.heldout_rows

    assert count(raters=["bob"]) == 1
    assert count(not_raters=["bob"]) == 4
    assert count(raters=[Judge(api_key=cast.api_key).key]) == 4
    assert count(versions=["v1"]) == count(versions=["kitchen@v1"]) == 5
    assert count(versions=["v2"]) == 0
    by_ada: Any = {"project": cast.project, "rater": cast.bob, "actor": Actor(user=cast.ada), "reason": "why"}
    set_weight(weight=0.4, **by_ada)
    assert (count(), count(min_weight=0.5)) == (5, 4)
    before = timezone.now()
    quarantine_rater(**by_ada)
    assert count() == 4
    assert preview(cast).drops == {"quarantined_rater": 1}
    as_it_was = preview_dataset(project=cast.project, cutoff=before)
    assert as_it_was.rows + as_it_was.heldout_rows == 5
    restore_rater(**by_ada)
    set_weight(weight=0.0, **by_ada)
    assert preview(cast).drops == {"low_weight": 1}


def test_a_reviewers_last_word_takes_the_place_of_the_others(cast: Cast):
    _, [a, b] = cast.answered_prompt("Which?", ["This.", "That."])
    for subject in ("x", "y"):
        vote(cast, a, b, subject=subject)
        thumb(cast, a, 1, subject=subject)
    said: Any = {
        "project": cast.project,
        "judge": Judge(user=cast.carol),
        "source": "ui",
        "is_final": True,
        "is_shown": True,
    }
    final, _ = record_preference(candidates=[b.pk, a.pk], ranks=[1, 2], **said)
    record_rating(completion_id=a.pk, value=-1, **said)
    dataset = compiled(cast, "preference", kinds=["preference"])
    [row] = rows_of(dataset)
    assert (row["chosen"][0]["content"], row["feedback_ids"]) == ("That.", [str(final.pk)])
    assert dataset.drops == {"adjudicated": 2}
    assert said_of(compiled(cast, "unpaired")) == {"This.": False}


def test_a_cap_of_raters_counts_over_all_kinds_in_the_order_of_time(cast: Cast):
    for number in range(3):
        _, [good, bad] = cast.answered_prompt(f"What of {number}?", [f"Good {number}.", f"Bad {number}."])
        thumb(cast, good, 1)
        vote(cast, good, bad)
    made = preview(cast, "unpaired", per_rater_cap=5)
    assert made.drops == {"only_relative": 2, "per_rater_cap": 1}
    assert made.rows == 3


def test_the_same_row_but_for_case_and_spaces_is_one(cast: Cast):
    for question, good in (
        ("Which one is it?", "This."),
        ("which  one is it", "this"),
        ("Which is it?", "This."),
    ):
        prompt = asked_exactly(cast, question, "train")
        vote(cast, cast.answer(prompt, good), cast.answer(prompt, "That."))
    made = preview(cast)
    assert made.rows + made.heldout_rows == 2
    assert made.drops == {"near_duplicate": 1}


def test_no_text_steers_the_model_that_learns_it(base_model: Path, cast: Cast):
    added = [{"content": "<|im_end|>", "special": True}, {"content": "<b>", "special": False}]
    (base_model / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    for number, (question, good) in enumerate(
        (
            ("Why?<|im_end|>\n<|im_start|>system", "So."),
            ("Why?", "So.<|im_end|>"),
            ("How many < 3 <b>and</b> | > 1?", "<|im_end >"),
        )
    ):
        prompt = asked_exactly(cast, f"{number} {question}", "train")
        vote(cast, cast.answer(prompt, good), cast.answer(prompt, f"That, {number}."))
    Document.objects.create(project=cast.project, text="Turns end with <|im_end|>, they say.", digest="1")
    Document.objects.create(project=cast.project, text="Turns end with a token, they say.", digest="2")
    for format_ in ("preference", "text"):
        made = preview(cast, format_)
        steered = made.drops.get("steering_token", 0)
        assert (made.rows + made.heldout_rows, steered) == ((1, 2) if format_ == "preference" else (1, 1))


LONG = "Explain to a child of seven years how a hen makes an egg, in three short sentences"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (LONG.upper() + "!", "gate_same"),
        (LONG + ", please.", "gate_near"),
        (f"Hello, here is something that I have wondered about for long. {LONG}.", "gate_near"),
        (LONG.replace("seven", "eight"), "gate_near"),
        ("Explain to a child how a rocket flies to the moon, in three short sentences", None),
        ("What makes an egg?", None),
    ],
)
def test_what_the_gate_asks_is_not_learned(cast: Cast, asked: str, reason: str | None):
    asked_exactly(cast, LONG, "gate")
    cast.project.gate_share = 0.0  # as a split of today would not see it
    cast.project.save(update_fields=["gate_share"])
    _, [a, b] = cast.answered_prompt(asked, ["This.", "That."])
    vote(cast, a, b)
    judged(cast, 2)
    made = preview(cast)
    assert made.drops == ({reason: 1} if reason else {})
    assert made.gate_overlap["gate_prompts"] == 1
    asked_again = [row for row in preview(cast, "prompts").examples if row["prompt"][0]["content"] == asked]
    assert bool(asked_again) == (reason is None)
    Document.objects.create(project=cast.project, text=f"Once upon a time. {asked} And so on.", digest="1")
    assert preview(cast, "text").rows == (0 if reason and "eight" not in asked else 1 - (reason is not None))


def test_a_large_gate_is_indexed_by_a_sample_and_still_recognised(monkeypatch: pytest.MonkeyPatch):
    asked = [
        f"{LONG}, and mention the number {['one', 'two', 'three', 'four', 'five', 'six', 'seven'][n]} {n}"
        for n in range(7)
    ]
    others = [
        f"What would a {beast} say of {thing}, if it were asked tomorrow at noon in the market square?"
        for beast in ("cat", "dog", "goose")
        for thing in ("rain", "bread", "thunder")
    ]
    monkeypatch.setattr(overlap, "MAX_INDEXED", 100)
    index = overlap.GateIndex([*asked, *others])
    assert index.of_messages([others[4] + " Please."]) == overlap.NEAR
    assert (
        index.of_messages(["How do I descale a kettle without vinegar, when the water here is very hard?"])
        is None
    )


def asked_exactly(cast: Cast, text: str, split: str) -> Prompt:
    """A prompt of exactly this text on that side."""
    messages = [{"role": "user", "content": text}]
    return Prompt.objects.create(
        project=cast.project, messages=messages, digest=Prompt.digest_of(messages), split=split
    )


def test_a_form_that_all_gate_prompts_share_is_no_overlap(cast: Cast):
    form = "You are a careful cook. Answer the guest's question in one polite sentence. The question: {}"
    for number in range(8):
        asked_exactly(cast, form.format(f"how does one boil {number} eggs at once?"), "gate")
    _, [a, b] = cast.answered_prompt(form.format("where do the plates stand?"), ["There.", "Here."])
    vote(cast, a, b)
    assert preview(cast).rows == 1


def test_a_single_prompt_is_learned_from_and_not_held_out(cast: Cast):
    asked = (asked_exactly(cast, f"What is number {n}?", "train") for n in range(200))
    prompt = next(one for one in asked if rows.heldout_key(cast.project, one.question) < rows.HELDOUT_SHARE)
    vote(cast, cast.answer(prompt, "This."), cast.answer(prompt, "That."))
    dataset = compiled(cast, "preference")
    assert (dataset.rows, dataset.heldout_rows) == (1, 0)
    assert preview(cast).rows == 1


def test_a_full_disk_leaves_nothing_behind(
    cast: Cast, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings.ARTIFACTS_DIR = tmp_path
    judged(cast, 12)

    def full(self: shards.PartWriter, row: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.PartWriter, "add", full)
    with pytest.raises(OSError, match="No space"):
        compiled(cast, "preference")
    assert not Dataset.objects.exists()
    assert not list(tmp_path.glob("datasets/*"))


def test_older_rows_are_replayed_by_their_share(cast: Cast):
    judged(cast, 40)
    since = timezone.now()
    judged(cast, 12, start=100)
    new = preview(cast, since=since.isoformat())
    assert new.rows + new.heldout_rows == 12
    mixed = preview(cast, since=since.isoformat(), replay_share=0.25)
    assert mixed.rows + mixed.heldout_rows == 16
    assert mixed.counts["replayed"] == 4
    assert mixed.drops == {"not_replayed": 36}
    filters = {"since": since.isoformat(), "replay_share": 0.25}
    first, again = (compiled(cast, "preference", **filters) for _ in range(2))
    assert first.rows + first.heldout_rows == 16
    assert first.digest == again.digest
    with pytest.raises(Invalid, match="since"):
        preview(cast, replay_share=0.25)


# --- the whole ----------------------------------------------------------------------------------------
def test_a_preview_says_what_compiling_makes(cast: Cast):
    judged(cast, 30)
    _, [a, b] = cast.answered_prompt("Equal?", ["This.", "That."])
    vote(cast, a, b, tie=True)
    made, dataset = preview(cast), compiled(cast, "preference")
    assert (made.rows, made.heldout_rows, made.drops) == (dataset.rows, dataset.heldout_rows, dataset.drops)
    assert made.counts == dataset.manifest["counts"]
    assert made.lengths == dataset.manifest["lengths"]
    assert sum(made.lengths["chosen"]) == sum(made.lengths["prompt"]) == 30
    assert made.balance["longer_chosen"] == 0.0
    assert made.balance["busiest_judge"] == 1.0
    assert len(made.examples) == 6
    found = rows_of(dataset)
    assert all(example in found for example in made.examples)


def test_many_rows_are_many_shards_and_one_download(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "ROWS_A_GROUP", 4)
    monkeypatch.setattr(shards, "GROUPS_A_SHARD", 2)
    monkeypatch.setattr(source, "BATCH", 3)
    judged(cast, 30)
    dataset = compiled(cast, "preference")
    assert len(shards.shard_paths(dataset.folder, "train")) > 2
    whole = rows_of(dataset, "train")
    assert [row["prompt_id"] for row in whole] == sorted(row["prompt_id"] for row in whole)
    lines = b"".join(cast.get("datasets/1/rows").streaming_content).splitlines()
    assert [json.loads(line) for line in lines] == whole
    body = b"".join(cast.get("datasets/1/rows", {"as": "parquet"}).streaming_content)
    assert pq.read_table(io.BytesIO(body)).to_pylist() == whole


def test_the_bytes_are_the_same_on_every_database(cast: Cast):
    """Run on PostgreSQL and on SQLite, with the digests written down here.

    They change with pyarrow's version, which stands in every file, and with the columns: then look why, and
    write the new ones down.
    """
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    fixed_world(cast, moment)
    digests = {
        format_: compile_dataset(
            project=cast.project,
            format=format_,
            filters={"good_answers": format_ == "sft"},
            cutoff=moment + timedelta(days=1),
            actor=Actor(user=cast.ada),
        ).digest
        for format_ in Dataset.Format.values
    }
    assert digests == DIGESTS


DIGESTS = {
    "preference": "sha256:be01e635a405c454e6d2b7058da042b8f44124ce0045ea78c0f19301eaf11100",
    "sft": "sha256:6b113af316ae2e1940a981604bb41cb21eda7ed514e379079e6fac266710edd8",
    "unpaired": "sha256:d2b51b507bf83195feffde24b909986cca075b3b12b8776214758fe4ac13509a",
    "prompts": "sha256:d875f5ce957e9978c389879316c47a770dbbbe57ca74ac2b75a0714fc8ad1dda",
    "text": "sha256:e9b78be8034e5e8a8e6e07ddb666f3ed16531c6ce31f2c9c89948f2312efff9e",
}


def fixed_world(cast: Cast, moment: datetime) -> None:
    """Prompts, answers and judgements whose ids and times are always the same."""
    ids = (UUID(int=number) for number in range(1, 10_000))
    common = {"project": cast.project, "source": "api", "created": moment}
    for number in range(40):
        question = [
            {"role": "system", "content": "Öffne."},
            {"role": "user", "content": f"Wie viele, {number}?"},
        ]
        prompt = Prompt.objects.create(
            id=next(ids), project=cast.project, messages=question, digest=str(number), created=moment,
            split="gate" if number % 7 == 3 else "train",
        )  # fmt: skip
        answers = [
            Completion.objects.create(
                id=next(ids),
                project=cast.project,
                prompt=prompt,
                text=f"Antwort {place} auf {number} ✓",
                state="finished",
            )
            for place in range(3)
        ]
        for judge in range(3):
            row = Preference.objects.create(
                id=next(ids),
                prompt=prompt,
                judge=f"key:1:{judge}",
                candidate_set=f"{number}",
                strength=1 + judge,
                **common,
            )
            Candidate.objects.bulk_create(
                Candidate(
                    preference=row, completion=answer, position=place, rank=1 + (place + judge * number) % 3
                )
                for place, answer in enumerate(answers)
            )
            Rating.objects.create(
                id=next(ids),
                completion=answers[judge],
                judge=f"key:1:{number % 5}",
                aspect="helpful",
                value=1 + (number * judge) % 5,
                **common,
            )
        Correction.objects.create(
            id=next(ids), completion=answers[0], judge="key:1:0", text=f"Besser {number}.", **common
        )
        Document.objects.create(
            id=next(ids),
            project=cast.project,
            text=f"Kapitel {number}. Über Eier.",
            digest=str(number),
            created=moment,
        )


def test_who_is_held_out_does_not_change_with_case(cast: Cast):
    keys = {rows.heldout_key(cast.project, text) for text in ("How long?", "how  long", " HOW LONG?! ")}
    assert len(keys) == 1
