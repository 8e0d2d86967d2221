"""Erasing a person: all of it, twice, killed in the middle, refused to others, and proved."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.core import serializers
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from feedback.counts import ALL_SERIES, judgements_that_stand
from feedback.models import Assignment, Correction, OptOut, Preference, Rating
from feedback.services.judge import Judge
from feedback.services.raters import quarantine_rater
from feedback.services.record import (
    KINDS,
    record_correction,
    record_flag,
    record_preference,
    record_rating,
    retract_feedback,
)
from feedback.services.tasks import create_compare_task
from inference import artifact
from inference.artifact import verify
from inference.counts import ANSWERS, PROMPTS
from inference.models import Completion, Conversation, Prompt, Version
from inference.services.completions import finish_completion
from projects.models import AuditEvent
from projects.services import SYSTEM, Actor, add_member, hourly, record_audit
from projects.services.hourly import sums
from tests.cast import Cast, error_of
from tests.training.conftest import judged
from tests.training.test_lineage import taught
from training.models import Dataset, Erasure, Pipeline, Run
from training.services import erasure as service
from training.services.compiler import ErasedMeanwhile, compile_dataset
from training.services.erasure import find_person, request_erasure, run_erasure, tick_erasures
from training.services.numbers import create_numbered

MARK = "xyzzymarker"  # in every text of the person, and in no other
END_USER = f"customer-{MARK}"


@pytest.fixture
def world(cast: Cast, settings: Any, tmp_path: Path) -> Cast:
    """Bob's and an end user's words everywhere, others' beside them, datasets of both, v2 trained on one."""
    settings.ARTIFACTS_DIR = tmp_path / "artifacts"
    judged(cast, 20)
    # Of others alone, but with a name in its filters.
    compile_dataset(project=cast.project, filters={"not_raters": ["bob"]}, actor=SYSTEM)
    of_member(cast)
    of_end_user(cast)
    preferences = compile_dataset(project=cast.project, actor=SYSTEM)
    compile_dataset(project=cast.project, format="sft", actor=SYSTEM)
    run = taught(cast, preferences, number=2)["run"]
    shutil.copytree(preferences.folder, run.folder / "dataset")
    (run.folder / "log.txt").write_text(f"row 3 is long: {MARK}")
    Run.objects.filter(pk=run.pk).update(message=f"row 3 is long: {MARK}")
    return cast


def of_member(cast: Cast) -> None:
    bob = Judge(user=cast.bob)
    talk = Conversation.objects.create(project=cast.project, owner=cast.bob, title=f"About {MARK}")
    own, [first, second] = cast.answered_prompt(
        f"I am {MARK}, how are eggs boiled?", [f"{MARK}, in water.", "In a pan."], conversation=talk
    )
    said: Any = {"project": cast.project, "source": "ui", "is_shown": True}
    record_rating(judge=bob, completion_id=first.pk, value=1, comment=f"{MARK} likes it", **said)
    record_preference(
        judge=Judge(api_key=cast.api_key), candidates=[first.pk, second.pk], ranks=[1, 2], **said
    )
    _, [one, two] = cast.answered_prompt("Which pan?", ["The small one.", "The large one."])
    record_preference(judge=bob, candidates=[one.pk, two.pk], ranks=[2, 1], comment=MARK, **said)
    _, [wrong] = cast.answered_prompt("How long?", ["Eight."])
    record_correction(judge=bob, completion_id=wrong.pk, text=f"Eight minutes, says {MARK}.", **said)
    record_flag(judge=bob, completion_id=two.pk, reason="private", comment=MARK, **said)
    asked, answers = cast.answered_prompt("Salt?", ["Yes.", "No."])
    task = create_compare_task(project=cast.project, prompt=asked, completions=answers)
    Assignment.objects.create(
        project=cast.project, task=task, rater=cast.bob, shown=[], draft={"comment": MARK},
        lease_until=timezone.now(), state="skipped",
    )  # fmt: skip
    create_compare_task(project=cast.project, prompt=own, completions=[first, second])
    record_audit(
        project=cast.project, actor=SYSTEM, action="rater.watched", subject="user:bob",
        detail={"reason": "why", "who": "bob"},
    )  # fmt: skip


def of_end_user(cast: Cast) -> None:
    user = Judge(api_key=cast.api_key, subject=END_USER)
    own, answers = cast.answered_prompt(f"My name is {MARK}. What now?", ["Wait.", f"Run, {MARK}."])
    _, of_others = cast.answered_prompt("What is an egg?", ["A cell.", "Food."])
    Completion.objects.filter(prompt=own).update(subject=END_USER, api_key=cast.api_key)
    Completion.objects.filter(pk=of_others[0].pk).update(subject=END_USER, api_key=cast.api_key)
    Completion.objects.filter(pk=of_others[1].pk).update(subject="somebody else", api_key=cast.api_key)
    said: Any = {"project": cast.project, "source": "api", "judge": user}
    record_preference(candidates=[one.pk for one in answers], ranks=[1, 2], **said)
    record_rating(completion_id=of_others[0].pk, value=1, comment=f"thanks, {MARK}", **said)
    OptOut.objects.create(project=cast.project, subject=END_USER)
    body = {"kind": "rating", "completion_id": str(answers[0].pk), "value": 1, "subject": END_USER}
    answer = cast.post("feedback", body, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 201, answer.content


def erase(cast: Cast, *, mode: str = "remove", **who: str) -> Erasure:
    person = find_person(project=cast.project, **who)
    erasure, _ = request_erasure(person=person, mode=mode, reason="Request 7", actor=Actor(user=cast.ada))
    assert run_erasure(erasure.pk) is not None
    erasure.refresh_from_db()
    return erasure


def everything_written() -> Iterator[tuple[str, str]]:
    """Every row of every table, and every file of every artifact, Parquet as its rows."""
    for model in apps.get_models(include_auto_created=True):
        yield model._meta.label, serializers.serialize("json", model._default_manager.all())
    for path in Path(django_settings.ARTIFACTS_DIR).rglob("*"):
        if path.suffix == ".parquet":
            yield str(path), json.dumps(pq.read_table(io.BytesIO(path.read_bytes())).to_pylist(), default=str)
        elif path.is_file():
            yield str(path), path.read_bytes().decode(errors="replace")


def found(*words: str) -> dict[str, list[str]]:
    """Where these words still stand."""
    places = {}
    for place, text in everything_written():
        if hits := [word for word in words if word in text]:
            places[place] = hits
    return places


# --- nothing is left -------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["remove", "anonymise"])
def test_nothing_that_they_wrote_is_found_again(world: Cast, mode: str):
    assert len(found(MARK)) > 8, "the words are everywhere before"
    erase(world, mode=mode, user="bob")
    erase(world, mode=mode, subject=END_USER)
    assert found(MARK, '"bob"', "user:bob") == {}


@pytest.mark.django_db(transaction=True)
def test_no_page_of_the_database_file_keeps_it(world: Cast):
    """SQLite alone keeps what was deleted in its file; PostgreSQL's row versions are named in the report."""
    erase(world, user="bob")
    report = erase(world, subject=END_USER)
    if connection.vendor == "sqlite":
        name = str(connection.settings_dict["NAME"])
        for path in (Path(name), Path(f"{name}-wal")):
            assert not path.exists() or MARK.encode() not in path.read_bytes(), path
    assert any("row versions" in str(one["why"]) for one in report.remains)


def test_the_report_proves_it_and_names_nobody(world: Cast):
    digests = {one.number: one.digest for one in Dataset.objects.all()}
    report = erase(world, user="bob")
    assert report.status == Erasure.Status.DONE
    assert (report.user, report.subject, report.secret) == (None, "", "")
    before = {name: n for name, n in report.before.items() if n}
    assert before["preferences"] == before["ratings"] == before["corrections"] == before["flags"] == 1
    assert (before["conversations"], before["prompts"], before["answers to them"]) == (1, 1, 2)
    assert (before["assignments"], before["memberships"], before["questions to them alone"]) == (1, 1, 1)
    assert not any(report.after.values())
    assert {one["number"]: one["digest"] for one in report.datasets} == {2: digests[2], 3: digests[3]}
    assert [(one["number"], one["serves"]) for one in report.versions] == [(2, True)]
    world.bob.refresh_from_db()
    assert (world.bob.username, world.bob.is_active) == (report.pseudonym, False)
    event = AuditEvent.objects.get(action="person.erased")
    assert (event.user, event.subject) == (world.ada, f"erasure:{report.number}")


def test_datasets_and_versions_that_held_them_are_marked(world: Cast):
    erase(world, user="bob")
    clean, held = Dataset.objects.get(number=1), Dataset.objects.get(number=2)
    assert (clean.status, held.status) == ("ready", "erased")
    assert clean.filters["not_raters"][0].startswith("erased-")
    verify(clean.folder, expected_digest=clean.digest)
    assert not list(held.folder.glob("*.parquet"))
    assert (held.folder / "manifest.json").exists()
    assert list(clean.folder.glob("*.parquet"))
    assert error_of(world.get("datasets/2/rows"))["code"] == "dataset_erased"
    version = Version.objects.get(project=world.project, number=2)
    assert (version.status, version.erased_behind > 0) == ("available", True), "it serves on, and is marked"
    run = Run.objects.get()
    assert not (run.folder / "log.txt").exists()
    assert not (run.folder / "dataset").exists()


def test_others_keep_what_is_theirs(world: Cast):
    shared = Prompt.objects.get(completions__subject="somebody else")
    mine = Preference.objects.exclude(rater=world.bob).exclude(subject=END_USER).count()
    erase(world, user="bob")
    erase(world, subject=END_USER)
    assert Preference.objects.count() == mine
    shared.refresh_from_db()
    assert shared.erased is None, "others asked the same"
    assert {one.subject for one in shared.completions.all()} == {"", "somebody else"}
    assert Prompt.objects.filter(erased__isnull=False).count() == 2, "tombstones: one for a judgement of it"


def test_anonymised_labels_teach_on_without_name_or_words(world: Cast):
    report = erase(world, mode="anonymise", user="bob")
    kept = Preference.objects.get(judge__startswith=report.pseudonym)
    assert (kept.rater, kept.comment, kept.assignment) == (None, "", None)
    assert not Correction.objects.exists(), "a correction is its author's text"
    assert Rating.objects.filter(judge__startswith=report.pseudonym).exists()
    again = compile_dataset(project=world.project, actor=SYSTEM)
    ids = [row["id"] for row in world.get(f"datasets/{again.number}/feedback").json()["items"]]
    assert str(kept.pk) in ids
    assert again.drops["erased"] >= 1, "what was said about their own question"


def test_labels_that_do_not_count_in_full_are_not_anonymised(world: Cast):
    quarantine_rater(project=world.project, rater=world.bob, actor=Actor(user=world.ada), reason="spam")
    report = erase(world, mode="anonymise", user="bob")
    assert not Preference.objects.filter(judge__startswith=report.pseudonym).exists()
    assert any("were to be anonymised" in str(one["what"]) for one in report.remains)


# --- again, in the middle, at the same time --------------------------------------------------------------
@pytest.mark.parametrize(
    "step",
    [
        "said.erase_judgements",
        "asked.erase_texts",
        "said.erase_about",
        "known.erase_traces",
        "known.close_account",
    ],
)
def test_what_was_killed_in_the_middle_is_finished(world: Cast, monkeypatch: pytest.MonkeyPatch, step: str):
    person = find_person(project=world.project, user="bob")
    erasure, _ = request_erasure(person=person, mode="remove", actor=SYSTEM)

    def die(*args: Any, **kwargs: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        module, name = step.split(".")
        patch.setattr(getattr(service, module), name, die)
        with pytest.raises(SystemExit):
            run_erasure(erasure.pk)
    erasure.refresh_from_db()
    assert erasure.status == Erasure.Status.RUNNING
    before = erasure.before
    tick_erasures()
    erasure.refresh_from_db()
    assert (erasure.status, erasure.before) == (Erasure.Status.DONE, before)
    assert [one["number"] for one in erasure.datasets] == [2, 3]
    assert Version.objects.get(project=world.project, number=2).erased_behind > 0
    assert not any(erasure.after.values())


def test_twice_is_once_and_one_worker_at_a_time(world: Cast):
    person = find_person(project=world.project, subject=END_USER)
    first, was_there = request_erasure(person=person, mode="remove", actor=SYSTEM)
    second, is_there = request_erasure(person=person, mode="anonymise", actor=SYSTEM)
    assert (first.pk, was_there, is_there) == (second.pk, False, True)
    Erasure.objects.update(status="running", lease_until=timezone.now() + service.LEASE)
    assert run_erasure(first.pk) is None
    Erasure.objects.update(lease_until=timezone.now())
    assert run_erasure(first.pk) is not None
    assert run_erasure(first.pk) is None
    again = erase(world, subject=END_USER)
    assert not any(again.before.values()), "nothing was left to find"


def test_a_dataset_that_was_read_meanwhile_is_not_registered(world: Cast, monkeypatch: pytest.MonkeyPatch):
    person = find_person(project=world.project, user="bob")
    written = artifact.write_manifest

    def and_then(*args: Any, **kwargs: Any) -> Any:
        request_erasure(person=person, mode="remove", actor=SYSTEM)
        return written(*args, **kwargs)

    monkeypatch.setattr("training.services.compiler.write_manifest", and_then)
    with pytest.raises(ErasedMeanwhile) as refused:
        compile_dataset(project=world.project, actor=SYSTEM)
    assert refused.value.code == "erased_meanwhile"
    assert Dataset.objects.count() == 3


def test_an_answer_that_ends_after_the_erasure_is_taken_away(world: Cast):
    talk = Conversation.objects.create(project=world.project, owner=world.bob)
    prompt = world.prompt("Still writing?", conversation=talk)
    running = world.answer(prompt, state=Completion.State.RUNNING)
    erase(world, mode="anonymise", user="bob")
    finish_completion(
        completion=running, state=Completion.State.FINISHED, text=f"Late {MARK}.", finish_reason="stop"
    )
    tick_erasures()
    running.refresh_from_db()
    assert (running.text, running.quarantined) == ("", True)


def test_a_member_of_two_projects_stays_in_the_other(cast: Cast):
    add_member(project=cast.garden, user=cast.bob, role="rater", actor=SYSTEM)
    report = erase(cast, user="bob")
    cast.bob.refresh_from_db()
    assert (cast.bob.username, cast.bob.is_active) == ("bob", True)
    assert [one.project.slug for one in cast.bob.memberships.all()] == ["garden"]
    assert any(one["what"] == "account" for one in report.remains)


# --- by whom, and how ------------------------------------------------------------------------------------
def test_by_rest(world: Cast):
    said = world.post("erasures", {"subject": END_USER, "dry_run": True}, key=world.manage_key)
    assert said.status_code == 200
    assert (said.json()["datasets"], said.json()["versions"]) == ([2], ["v2"])
    assert Erasure.objects.count() == 0
    asked = world.post("erasures", {"subject": END_USER, "mode": "remove"}, key=world.manage_key)
    assert (asked.status_code, asked.json()["status"]) == (202, "waiting")
    tick_erasures()
    report = world.get("erasures/1", key=world.manage_key).json()
    assert (report["status"], report["removed"] > 0) == ("done", True)
    assert MARK not in json.dumps(report)
    assert [one["number"] for one in world.get("erasures", key=world.manage_key).json()["items"]] == [1]


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 422), ({"user": "bob", "subject": "x"}, 422), ({"user": "nobody"}, 404), ({"user": "eve"}, 404),
     ({"subject": "x", "mode": "burn"}, 422)],
)  # fmt: skip
def test_what_rest_refuses(cast: Cast, body: dict[str, Any], status: int):
    answer = cast.post("erasures", body, key=cast.manage_key)
    assert answer.status_code == status, answer.content
    error_of(answer)


def test_a_key_that_does_not_manage_erases_nobody(cast: Cast):
    assert cast.post("erasures", {"user": "bob"}).status_code == 403
    assert cast.get("erasures").status_code == 403
    assert cast.get("erasures/1", key=cast.foreign_key).status_code == 404


def test_pages_ask_first_and_want_the_name_again(world: Cast):
    client = Client()
    client.force_login(world.ada)
    who = {"user": "bob", "mode": "remove"}
    body = client.post("/p/kitchen/erasures/ask", who).content.decode()
    assert "What will happen to bob" in body
    assert "preferences" in body
    assert "once more" in client.post("/p/kitchen/erasures/confirm", {**who, "again": "bo"}).content.decode()
    assert not Erasure.objects.exists()
    answer = client.post("/p/kitchen/erasures/confirm", {**who, "again": "bob"})
    assert answer.headers["Location"] == "/p/kitchen/erasures/1/"
    assert "every 2s" in client.get("/p/kitchen/erasures/1/").content.decode()
    tick_erasures()
    body = client.get("/p/kitchen/erasures/1/").content.decode()
    assert "What remains, and why" in body
    assert "bob" not in body
    report = client.get("/p/kitchen/erasures/1/report")
    assert json.loads(report.content)["status"] == "done"
    for user in (world.carol, world.eve):
        client.force_login(user)
        assert client.get("/p/kitchen/erasures/").status_code == 404
        assert client.post("/p/kitchen/erasures/confirm", {**who, "again": "bob"}).status_code == 404


def test_one_button_trains_without_them(world: Cast):
    erase(world, user="bob")
    answer = world.post("erasures/1/retrain", {}, key=world.manage_key)
    assert answer.status_code == 201, answer.content
    run = Run.objects.get(number=answer.json()["number"])
    assert (run.method, run.dataset.status, run.dataset.format) == ("dpo", "ready", "preference")
    assert run.dataset.manifest["erasures"] == {"people": 1, "judgements": 4}
    person = find_person(project=world.project, subject="nobody in particular")
    request_erasure(person=person, mode="remove", actor=SYSTEM)
    early = world.post("erasures/2/retrain", {}, key=world.manage_key)
    assert (early.status_code, error_of(early)["code"]) == (409, "erasure_unfinished")
    erase(world, subject="nobody in particular")
    assert world.post("erasures/2/retrain", {}, key=world.manage_key).status_code == 404


def test_what_went_on_with_an_adapter_does_so_again(world: Cast):
    others = Dataset.objects.get(number=1)
    first = taught(world, others, number=3)["version"]
    taught(world, Dataset.objects.get(number=2), number=4, start=first)
    erase(world, user="bob")
    answer = world.post("erasures/1/retrain", {}, key=world.manage_key)
    assert answer.status_code == 201, answer.content
    assert Run.objects.get(number=answer.json()["number"]).start == first
    Run.objects.filter(version__number=4).update(
        start=Version.objects.get(number=2)
    )  # which learned from bob
    answer = world.post("erasures/1/retrain", {}, key=world.manage_key)
    assert (answer.status_code, error_of(answer)["code"]) == (409, "start_erased")


def test_what_a_pipeline_made_of_them_is_made_by_it_anew(world: Cast):
    caps = {"per_prompt_cap": 5}
    pipeline = create_numbered(
        Pipeline, project=world.project, name="reward-rloo", stages=["reward", "rloo"], filters=caps
    )
    data = Dataset.objects.get(number=2)
    of_first: Any = {"kind": "reward", "method": "reward", "pipeline": pipeline, "stage": 0}
    judge = taught(world, data, number=3, **of_first)["version"]
    taught(world, data, number=4, method="rloo", reward=judge, pipeline=pipeline, stage=1)
    erase(world, user="bob")
    answer = world.post("erasures/1/retrain", {}, key=world.manage_key)
    assert answer.status_code == 201, answer.content
    run = Run.objects.get(number=answer.json()["number"])
    assert run.pipeline is not None and run.pipeline != pipeline
    assert (run.method, run.pipeline.name, run.pipeline.filters) == ("reward", "reward-rloo", caps)


def test_the_command_says_first_and_does_with_yes(world: Cast):
    out = io.StringIO()
    call_command("erase_person", project="kitchen", user="bob", stdout=out)
    assert "Nothing was changed" in out.getvalue()
    assert "preferences" in out.getvalue()
    assert not Erasure.objects.exists()
    out = io.StringIO()
    call_command("erase_person", project="kitchen", user="bob", yes=True, stdout=out)
    assert json.loads(out.getvalue())["status"] == "done"
    with pytest.raises(CommandError, match="no such member"):
        call_command("erase_person", project="kitchen", user="bob", yes=True)


# --- what the next dataset says --------------------------------------------------------------------------
@pytest.mark.parametrize("format_", ["preference", "unpaired", "sft"])
def test_no_label_that_is_gone_enters_the_next_dataset_which_says_why(
    cast: Cast, settings: Any, tmp_path: Path, format_: str
):
    settings.ARTIFACTS_DIR = tmp_path
    ada = Actor(user=cast.ada)
    said: Any = {"project": cast.project, "source": "ui", "is_shown": True}
    gone, stands = {}, []

    def label(number: int, judge: Judge, **more: Any) -> list[Any]:
        _, [good, bad] = cast.answered_prompt(f"Question {number}?", [f"Good {number}.", f"Bad {number}."])
        return [
            record_preference(judge=judge, candidates=[good.pk, bad.pk], ranks=[1, 2], **said)[0],
            record_rating(judge=judge, completion_id=good.pk, value=1, **said)[0],
            record_correction(judge=judge, completion_id=bad.pk, text=f"Better {number}.", **said)[0],
        ]

    for number in range(4):
        stands += label(number, Judge(user=cast.carol))
    gone["retracted"] = label(10, Judge(user=cast.carol))
    for row in gone["retracted"]:
        retract_feedback(project=cast.project, judge=Judge(user=cast.carol), feedback_id=row.pk)
    gone["quarantined_rater"] = label(11, Judge(user=cast.ada))
    quarantine_rater(project=cast.project, rater=cast.ada, actor=ada, reason="asleep")
    gone["removed"] = label(12, Judge(user=cast.bob))
    talk = Conversation.objects.create(project=cast.project, owner=cast.bob)
    _, [own] = cast.answered_prompt("Own?", ["Yes."], conversation=talk)
    gone["erased"] = [
        record_rating(judge=Judge(api_key=cast.api_key), completion_id=own.pk, value=1, **said)[0]
    ]
    erase(cast, user="bob")

    dataset = compile_dataset(
        project=cast.project, format=format_, filters={"good_answers": format_ == "sft"}, actor=ada
    )
    entered = {row["id"] for row in cast.get(f"datasets/{dataset.number}/feedback").json()["items"]}
    assert entered
    assert entered <= {str(row.pk) for row in stands}
    assert not entered & {str(row.pk) for rows in gone.values() for row in rows}
    assert {name: dataset.drops[name] for name in ("retracted", "quarantined_rater", "erased")} == {
        "retracted": 3, "quarantined_rater": 3, "erased": 1,
    }  # fmt: skip
    assert dataset.manifest["erasures"] == {"people": 1, "judgements": 3}


def test_kept_counts_go_with_the_rows(world: Cast):
    # Of two days ago, and judged by nobody: it goes as rows, with its answer.
    talk = Conversation.objects.create(project=world.project, owner=world.bob)
    asked, _ = world.answered_prompt("Alone?", ["Yes."], conversation=talk)
    for rows in (Prompt.objects.filter(pk=asked.pk), Completion.objects.filter(prompt=asked)):
        rows.update(created=timezone.now() - timedelta(days=2))
    hourly.count_hours(project=world.project, series=ALL_SERIES, now=timezone.now() + hourly.GRACE)
    before = judgements_that_stand(world.project)
    erase(world, user="bob")
    assert judgements_that_stand(world.project) == {
        kind: model.objects.usable().filter(project=world.project).count() for kind, model in KINDS.items()
    }
    assert judgements_that_stand(world.project)["rating"] < before["rating"]
    assert not Prompt.objects.filter(pk=asked.pk).exists()
    for series in (PROMPTS, ANSWERS):
        counted = sum(found["count"] for found in sums(series, world.project).values())
        assert counted == series.rows(world.project).count()
    hourly.count_hours(project=world.project, series=ALL_SERIES, now=timezone.now() + hourly.GRACE)
    assert hourly.recount(project=world.project, series=ALL_SERIES) == []
