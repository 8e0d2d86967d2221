"""Candidate against champion: frozen gate prompts, blind votes, a verdict, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feedback.models import Task
from feedback.services.answers import answer_task
from feedback.services.judge import Judge
from feedback.services.queue import claim_task
from feedback.services.record import record_preference
from inference.models import Completion, Deployment, Version
from inference.services import reconciler
from inference.services.prompts import record_prompt
from projects.errors import Conflict, Unavailable
from projects.models import AuditEvent
from projects.services import SYSTEM
from tests.cast import SAMPLING, Cast, error_of
from tests.inference.adapters import new_version
from tests.training.conftest import vote
from training.models import Evaluation, Policy, Run
from training.services import answering, evaluations
from training.services.answering import tick_evaluation
from training.services.evaluations import create_evaluation, decide


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels that the engines were asked to load; there is no engine. Its HTTP has tests of its own."""
    asked: list[str] = []

    def load(version: Version) -> float:
        asked.append(version.label)
        if version.kind != Version.Kind.BASE:
            reconciler.check_files(version)
        return 12.5

    for module in (evaluations, answering):
        monkeypatch.setattr(module, "load_on_all", load)
    return asked


@pytest.fixture
def candidate(cast: Cast, tmp_path: Path) -> Version:
    return new_version(cast.project, tmp_path)


def battles(cast: Cast, candidate: Version, outcomes: str, *, subject: str = "") -> None:
    """Votes on gate prompts: w the candidate wins, l it loses, t a tie, b both bad."""
    for number, outcome in enumerate(outcomes):
        _, (new, old) = cast.answered_prompt(
            f"Gate question {number}?",
            [f"New {number}.", f"Old {number}."],
            split="gate",
            versions=[candidate, cast.v1],
        )
        judge = Judge(api_key=cast.api_key, subject=subject)
        ranks: Any = {"w": [1, 2], "l": [2, 1], "t": [1, 1], "b": None}[outcome]
        record_preference(
            project=cast.project, judge=judge, candidates=[new.id, old.id], ranks=ranks,
            all_bad=outcome == "b", source="api", is_shown=True,
        )  # fmt: skip


def evaluate(cast: Cast, candidate: Version, **options: Any) -> Evaluation:
    return create_evaluation(project=cast.project, candidate=candidate, actor=SYSTEM, **options)


def test_making_one_freezes_the_gate_prompts_and_loads_the_candidate(cast, candidate, loads):
    kept = {str(cast.prompt(f"Gate {n}?", split="gate").id) for n in range(3)}
    cast.prompt("For training?", split="train")
    answer = cast.post("evaluations", {"candidate": "kitchen@v2"}, key=cast.manage_key)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert set(body["prompt_ids"]) == kept
    assert (body["candidate"], body["champion"], body["status"]) == ("kitchen@v2", "kitchen@v1", "judging")
    assert body["load_ms"] == 12.5
    assert loads == ["kitchen@v2", "kitchen@v1"]
    candidate.refresh_from_db()
    assert candidate.is_candidate
    [listed] = cast.get("evaluations").json()["items"]
    assert listed == {name: value for name, value in body.items() if name != "prompt_ids"}
    cast.prompt("A later one?", split="gate")
    assert set(cast.get("evaluations/1").json()["prompt_ids"]) == kept


@pytest.mark.parametrize("name", ["kitchen@v2", "v2", "2", 2])
def test_a_version_has_four_names(cast, candidate, loads, name):
    cast.prompt(split="gate")
    body = cast.post("evaluations", {"candidate": name}, key=cast.manage_key).json()
    assert body["candidate"] == "kitchen@v2"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"candidate": "v9"}, 404, "version_not_found"),
        ({"candidate": "garden@v1"}, 404, "version_not_found"),
        ({"candidate": "v1"}, 422, "invalid_value"),
        ({"candidate": "v2", "champion": "v2"}, 422, "invalid_value"),
        ({"candidate": True}, 422, "invalid_value"),
        ({}, 422, "invalid_value"),
        ({"candidate": "v2", "colour": 1}, 422, "unknown_field"),
    ],
)
def test_what_is_refused(cast, candidate, loads, body, status, code):
    cast.prompt(split="gate")
    answer = cast.post("evaluations", body, key=cast.manage_key)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert not Evaluation.objects.exists()


def test_without_gate_prompts_there_is_nothing_to_judge_on(cast, candidate, loads):
    error = error_of(cast.post("evaluations", {"candidate": "v2"}, key=cast.manage_key))
    assert error["code"] == "no_gate_prompts"


def test_who_may(cast, candidate, loads):
    cast.prompt(split="gate")
    assert cast.post("evaluations", {"candidate": "v2"}).status_code == 403
    assert cast.post("evaluations", {"candidate": "v2"}, key=cast.manage_key).status_code == 201
    assert cast.get("evaluations/1", key=cast.foreign_key).status_code == 404
    assert cast.post("evaluations/1/decide", {}, key=cast.foreign_key).status_code == 404


def test_damaged_files_fail_it_and_the_candidate_is_let_go(cast, candidate, loads):
    cast.prompt(split="gate")
    weights = candidate.folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(bytes(data))
    error = error_of(cast.post("evaluations", {"candidate": "v2"}, key=cast.manage_key))
    assert error["code"] == "promotion_refused"
    candidate.refresh_from_db()
    assert (candidate.is_candidate, candidate.status) == (False, "damaged")
    assert Evaluation.objects.get().status == Evaluation.Status.FAILED
    assert error_of(cast.post("evaluations/1/decide", {}, key=cast.manage_key))["code"] == "evaluation_failed"


def test_an_engine_that_is_away_fails_what_a_program_wants_now_and_not_what_ratchet_does_later(
    cast, candidate, monkeypatch
):
    cast.prompt(split="gate")

    def away(version: Version) -> float:
        raise Unavailable("No engine answers.")

    monkeypatch.setattr(evaluations, "load_on_all", away)
    answer = cast.post("evaluations", {"candidate": "v2"}, key=cast.manage_key)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert error_of(answer)["code"] == "unavailable"
    assert evaluate(cast, candidate, sample=True).status == Evaluation.Status.ANSWERING


# --- the verdict --------------------------------------------------------------------------------------
def test_a_better_candidate_gets_promote_with_all_numbers(cast, candidate, loads):
    battles(cast, candidate, "w" * 45 + "l" * 10 + "t" * 3 + "b" * 2)
    cast.post("evaluations", {"candidate": "v2"}, key=cast.manage_key)
    body = cast.post("evaluations/1/decide", {}, key=cast.manage_key).json()
    assert (body["verdict"], body["status"]) == ("promote", "decided")
    numbers = body["numbers"]
    assert {name: numbers[name] for name in ("n", "wins", "losses", "ties", "votes", "raters")} == {
        "n": 60, "wins": 45, "losses": 10, "ties": 5, "votes": 60, "raters": 1,
    }  # fmt: skip
    assert numbers["win_rate"] == pytest.approx(47.5 / 60)
    assert 0.5 < numbers["ci_low"] < numbers["win_rate"] < numbers["ci_high"] < 1
    assert all(guard["holds"] for guard in numbers["guards"].values())
    assert numbers["latency"]["candidate"]["ttft_ms_p50"] == 80.0
    assert "lower bound" in body["reason"]


def test_a_worse_candidate_is_rejected_and_let_go(cast, candidate, loads):
    battles(cast, candidate, "w" * 10 + "l" * 50)
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    assert evaluation.verdict == "reject"
    candidate.refresh_from_db()
    assert not candidate.is_candidate


def test_few_battles_are_insufficient_and_more_change_that(cast, candidate, loads):
    battles(cast, candidate, "w" * 60)
    evaluation = evaluate(cast, candidate)
    evaluation.prompt_ids = evaluation.prompt_ids[:20]
    evaluation.save(update_fields=["prompt_ids"])
    evaluation = decide(evaluation=evaluation, actor=SYSTEM)
    assert (evaluation.verdict, evaluation.numbers["needed"]) == ("insufficient", 30)
    Evaluation.objects.update(prompt_ids=[str(id_) for id_ in _gate_ids(cast)])
    evaluation.refresh_from_db()
    assert decide(evaluation=evaluation, actor=SYSTEM).verdict == "promote"


def test_votes_that_do_not_count(cast, candidate, loads):
    battles(cast, candidate, "ww")
    evaluation = evaluate(cast, candidate)
    # Two answers of the same version, a prompt of another split, a quarantined answer.
    _, same = cast.answered_prompt("Same?", ["One.", "Two."], split="gate", versions=[candidate, candidate])
    vote(cast, *same)
    _, train = cast.answered_prompt("Train?", ["One.", "Two."], versions=[candidate, cast.v1])
    vote(cast, *train)
    [first, _] = Completion.objects.filter(version=candidate, prompt_id__in=evaluation.prompt_ids)
    Completion.objects.filter(pk=first.pk).update(quarantined=True)
    numbers = decide(evaluation=evaluation, actor=SYSTEM).numbers
    assert (numbers["n"], numbers["wins"]) == (1, 1)


def test_a_candidate_that_says_nothing_is_rejected_whatever_the_votes(cast, candidate, loads):
    battles(cast, candidate, "w" * 60)
    Completion.objects.filter(version=candidate).update(text=" ")
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    assert evaluation.verdict == "reject"
    assert "empty" in evaluation.reason


def test_audit_prompts_are_in_every_evaluation_and_reject_whatever_the_other_votes_say(
    cast, candidate, loads, monkeypatch
):
    monkeypatch.setattr(evaluations, "MAX_PROMPTS", 55)
    battles(cast, candidate, "w" * 60)
    audit = [audited(cast, candidate, f"Audit {number}?", loses=True) for number in range(8)]
    evaluation = evaluate(cast, candidate)
    assert len(evaluation.prompt_ids) == 55 + 8
    assert set(audit) <= set(evaluation.prompt_ids)
    evaluation = decide(evaluation=evaluation, actor=SYSTEM)
    numbers = evaluation.numbers
    assert (numbers["n"], numbers["win_rate"]) == (55, 1.0), "they do not count among the others"
    assert (numbers["audit"]["n"], numbers["audit"]["win_rate"]) == (8, 0.0)
    assert evaluation.verdict == "reject"
    assert "On the audit prompts people prefer the champion" in evaluation.reason
    [line] = [line for line in numbers["lines"] if line["name"] == "audit"]
    assert (line["state"], line["words"]) == (
        "fail",
        f"Both answered 8 audit prompts. {numbers['audit']['problems'][0]}",
    )


def test_an_audit_that_speaks_against_nothing_passes_and_without_one_it_says_so(cast, candidate, loads):
    battles(cast, candidate, "w" * 60)
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    line = {one["name"]: one for one in evaluation.numbers["lines"]}["audit"]
    assert (evaluation.numbers["audit"], line["state"]) == (None, "none")
    for number in range(8):
        audited(cast, candidate, f"Audit {number}?", loses=number % 2 == 0)
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    line = {one["name"]: one for one in evaluation.numbers["lines"]}["audit"]
    assert (evaluation.verdict, line["state"]) == ("promote", "pass")
    shown = cast.get("evaluations/2/examples", {"show": "audit"}).json()["items"]
    assert {row["question"] for row in shown} == {f"Audit {number}?" for number in range(8)}


def audited(cast: Cast, candidate: Version, question: str, *, loses: bool) -> str:
    """An audit prompt that both answered and somebody judged; its id."""
    asked = [{"role": "user", "content": question}]
    prompt, _ = record_prompt(project=cast.project, messages=asked, tags=["audit"])
    new, old = cast.answer(prompt, "New.", version=candidate), cast.answer(prompt, "Old.")
    vote(cast, *((old, new) if loses else (new, old)))
    return str(prompt.id)


def test_the_policys_margin_and_battles_are_asked(cast, candidate, loads):
    Policy.objects.create(project=cast.project, margin=0.4, min_battles=5)
    battles(cast, candidate, "w" * 16 + "l" * 4)
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    assert evaluation.verdict == "insufficient"
    Policy.objects.update(margin=0.0)
    assert decide(evaluation=evaluation, actor=SYSTEM).verdict == "promote"


def test_an_old_candidate_makes_room_for_a_new_one(cast, candidate, loads, tmp_path):
    battles(cast, candidate, "w" * 60)
    decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    newer = new_version(cast.project, tmp_path, seed=1)
    evaluate(cast, newer)
    assert list(Version.objects.filter(is_candidate=True)) == [newer]


@pytest.mark.parametrize("asks", [True, False])
def test_raters_are_asked_when_the_policy_says_so(cast, candidate, loads, asks):
    Policy.objects.create(project=cast.project, asks_raters=asks)
    cast.project.temperature, cast.project.max_tokens = SAMPLING["temperature"], SAMPLING["max_tokens"]
    cast.project.save(update_fields=["temperature", "max_tokens"])
    for number in range(3):
        cast.answered_prompt(f"Gate {number}?", ["New.", "Old."], split="gate", versions=[candidate, cast.v1])
    evaluation = evaluate(cast, candidate, sample=True)
    tick_evaluation(evaluation.id)
    evaluation.refresh_from_db()
    assert (evaluation.status, Task.objects.count()) == ("judging", 3 if asks else 0)


# --- answers made by Ratchet --------------------------------------------------------------------------
@pytest.mark.model
def test_ratchet_makes_the_answers_asks_the_raters_and_decides(cast, candidate, engine):
    cast.project.max_tokens = 8
    cast.project.save(update_fields=["max_tokens"])
    for number in range(3):
        cast.prompt(f"Gate {number}?", split="gate")
    Policy.objects.create(project=cast.project, min_battles=2)
    evaluation = evaluate(cast, candidate, sample=True)
    with pytest.raises(Conflict, match="still being made") as refused:
        decide(evaluation=evaluation, actor=SYSTEM)
    assert refused.value.code == "still_answering"
    _tick_until(evaluation, Evaluation.Status.JUDGING)
    assert Completion.objects.filter(version=candidate).count() == 3
    assert Completion.objects.filter(version=cast.v1).count() == 3
    tasks = Task.objects.filter(project=cast.project)
    identical = evaluation.numbers["identical"]
    assert (tasks.count() + len(identical), {task.priority for task in tasks}) == (3, {10})
    Run.objects.filter(slot="evaluation:1", method="evaluate").update(status="cancelled")  # no trainer here
    tick_evaluation(evaluation.id)
    evaluation.refresh_from_db()
    assert evaluation.status == Evaluation.Status.JUDGING, "nobody judged yet"

    while assignment := claim_task(project=cast.project, rater=cast.bob):
        wins = str(Completion.objects.get(pk=assignment.shown[0]).version_id) == str(candidate.id)
        answer_task(assignment=assignment, answer={"verdict": "left" if wins else "right"})
    _tick_until(evaluation, Evaluation.Status.DECIDED)
    assert evaluation.numbers["n"] == 3
    assert evaluation.numbers["losses"] == 0
    assert Completion.objects.filter(version=candidate).count() == 3, "no answer was made twice"


@pytest.mark.model
def test_a_prompt_that_no_engine_takes_is_left_out(cast, candidate, engine):
    cast.project.max_tokens = 8
    cast.project.save(update_fields=["max_tokens"])
    cast.prompt("Short?", split="gate")
    too_long = cast.prompt("word " * 900, split="gate")
    evaluation = evaluate(cast, candidate, sample=True)
    _tick_until(evaluation, Evaluation.Status.JUDGING)
    assert evaluation.numbers["skipped"] == [str(too_long.id)]


def test_damage_that_comes_while_it_answers_fails_it(cast, candidate, loads):
    cast.prompt(split="gate")
    evaluation = evaluate(cast, candidate, sample=True)
    (candidate.folder / "adapter_config.json").write_text("{}")
    for prompt in cast.project.prompts.filter(split="gate"):
        completion = cast.answer(prompt)  # the champion's is there; only the candidate's is missing
        Completion.objects.filter(pk=completion.pk).update(sampling=answering.sampling_of(cast.project))
    tick_evaluation(evaluation.id)
    evaluation.refresh_from_db()
    candidate.refresh_from_db()
    assert (evaluation.status, candidate.is_candidate) == ("failed", False)
    assert "damaged" in evaluation.reason


def test_an_evaluation_that_somebody_answers_is_left_alone(cast, candidate, loads):
    cast.prompt(split="gate")
    evaluation = evaluate(cast, candidate, sample=True)
    assert answering._claim(evaluation.id) is not None
    assert answering._claim(evaluation.id) is None


def test_what_serves_is_not_decided_any_more(cast, candidate, loads):
    battles(cast, candidate, "w" * 60)
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    Deployment.objects.filter(project=cast.project).update(champion=candidate)
    refused = cast.post(f"evaluations/{evaluation.number}/decide", {}, key=cast.manage_key)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "already_promoted")


# --- what follows -------------------------------------------------------------------------------------
def test_the_verdict_promotes_where_the_policy_says_so(cast, candidate, loads, monkeypatch):
    Policy.objects.create(project=cast.project, is_enabled=True, approval="automatic", min_battles=10)
    battles(cast, candidate, "w" * 20)
    promoted = []
    monkeypatch.setattr(evaluations, "promote_version", lambda **said: promoted.append(said))
    evaluation = decide(evaluation=evaluate(cast, candidate), actor=SYSTEM)
    assert [said["version"] for said in promoted] == [candidate]
    assert f"Evaluation {evaluation.number}" in promoted[0]["reason"]


def test_a_refused_automatic_promotion_leaves_the_verdict_and_a_trace(cast, candidate, loads, monkeypatch):
    def refuse(**said: Any) -> None:
        raise Unavailable("No engine answers.")

    monkeypatch.setattr(evaluations, "promote_version", refuse)
    Policy.objects.create(project=cast.project, is_enabled=True, approval="automatic", min_battles=10)
    battles(cast, candidate, "w" * 20)
    evaluation = evaluate(cast, candidate)
    assert decide(evaluation=evaluation, actor=SYSTEM).verdict == "promote"
    [event] = AuditEvent.objects.filter(action="deployment.refused")
    assert event.detail == {"message": "No engine answers."}


def _gate_ids(cast: Cast) -> list[Any]:
    return list(cast.project.prompts.filter(split="gate").values_list("id", flat=True))


def _tick_until(evaluation: Evaluation, status: str) -> None:
    for _ in range(20):
        tick_evaluation(evaluation.id)
        evaluation.refresh_from_db()
        if evaluation.status == status:
            return
    raise AssertionError(f"{evaluation.status} after 20 ticks")
