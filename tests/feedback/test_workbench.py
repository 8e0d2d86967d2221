"""Tasks of every kind as raters answer them: the feedback they make, drafts, undo, caps, gold, reviews."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from feedback.errors import AlreadyJudged, LeaseLost
from feedback.models import Assignment, Correction, Preference, Rating, Task
from feedback.services.answers import answer_task, save_draft
from feedback.services.judge import Judge
from feedback.services.queue import claim_task, queue_state, renew_lease, skip_task, undo_last
from feedback.services.record import record_correction, record_rating
from feedback.services.tasks import create_task
from feedback.services.workbench import update_workbench
from inference.models import Completion
from projects.errors import Invalid, NotFound
from projects.ids import uuid7
from projects.models import User
from projects.services import SYSTEM, update_project
from tests.cast import Cast

FORM = {
    "aspects": [
        {"key": "thumbs", "kind": "thumbs", "reasons": [{"key": "clear", "when": "up"}]},
        {"key": "accuracy", "low": 1, "high": 5, "reasons": [{"key": "invented", "when": "down"}]},
        {"key": "tone", "low": 1, "high": 3, "required": False},
    ]
}


def ask(cast: Cast, kind: str, count: int = 1, **more: Any) -> Task:
    prompt, answers = cast.answered_prompt(f"Question {uuid7()}?", [f"Answer {n}." for n in range(count)])
    return create_task(project=cast.project, kind=kind, prompt=prompt, completions=answers, **more)


def claim(cast: Cast, rater: User | None = None, **more: Any) -> Assignment:
    found = claim_task(project=cast.project, rater=rater or cast.bob, **more)
    assert found is not None
    return found


def use_form(cast: Cast) -> None:
    cast.project.form = FORM
    update_project(project=cast.project, changed=["form"], actor=SYSTEM)


def settings(cast: Cast, **changes: Any) -> None:
    update_workbench(project=cast.project, actor=SYSTEM, **changes)


# --- kinds -----------------------------------------------------------------------------------------------
def test_a_ranking_of_many_with_ties_is_one_preference_in_shown_order(cast: Cast):
    ask(cast, "compare", 4)
    question = claim(cast)
    [row] = answer_task(assignment=question, answer={"ranks": [2, 1, 2, 4], "comment": "Close."})
    assert isinstance(row, Preference)
    sides = list(row.candidates.values_list("completion_id", "rank"))
    assert [(str(pk), rank) for pk, rank in sides] == list(zip(question.shown, [2, 1, 2, 4], strict=True))
    assert (row.comment, row.assignment, row.guideline_version) == ("Close.", question, 1)


@pytest.mark.parametrize(
    ("answer", "param"),
    [
        ({"verdict": "left"}, "verdict"),
        ({"ranks": [1, 2]}, "ranks"),
        ({"ranks": [2, 3, 4]}, "ranks"),
        ({"ranks": [1, 2, 3], "all_bad": True}, None),
        ({}, None),
        ({"ranks": [1, "2", 3]}, "ranks.1"),
        ({"ranks": [1, 2, 3], "winner": 1}, "winner"),
        ({"ratings": {"thumbs": 1}}, "ratings"),
    ],
)
def test_an_answer_of_another_form_is_refused_and_the_place_is_kept(cast: Cast, answer: Any, param: Any):
    ask(cast, "compare", 3)
    question = claim(cast)
    with pytest.raises(Invalid) as refused:
        answer_task(assignment=question, answer=answer)
    assert refused.value.param == param
    assert not Preference.objects.exists()
    assert claim(cast) == question


def test_a_form_with_scales_makes_a_rating_for_each_aspect(cast: Cast):
    use_form(cast)
    ask(cast, "rate")
    question = claim(cast)
    said = {"ratings": {"thumbs": -1, "accuracy": 2}, "reasons": {"accuracy": ["invented"]}, "comment": "No."}
    client_id = uuid7()
    rows = answer_task(assignment=question, answer=said, client_id=client_id, seconds_spent=4)
    assert {(row.aspect, row.value, tuple(row.reasons)) for row in Rating.objects.all()} == {
        ("thumbs", -1, ()),
        ("accuracy", 2, ("invented",)),
    }
    assert rows[0].pk == client_id
    assert {row.guideline_version for row in rows} == {2}
    assert {row.pk for row in answer_task(assignment=question, answer=said)} == {row.pk for row in rows}
    with pytest.raises(AlreadyJudged):
        answer_task(assignment=question, answer={"ratings": {"thumbs": 1, "accuracy": 2}})
    assert Rating.objects.count() == 2


@pytest.mark.parametrize("said", [{"is_fine": True}, {"text": "A better answer."}])
def test_who_has_rated_or_bettered_an_answer_may_still_be_asked_to_correct_it(
    cast: Cast, said: dict[str, Any]
):
    """The newer word counts, and undone it is open again."""
    task = ask(cast, "correct")
    [answer] = task.completions.all()
    question, judge = claim(cast), Judge(user=cast.bob)
    common: dict[str, Any] = {"project": cast.project, "judge": judge, "source": "ui", "is_shown": True}
    record_rating(completion_id=answer.pk, value=-1, **common)
    record_correction(completion_id=answer.pk, text="Better.", **common)
    [row] = answer_task(assignment=question, answer=said)
    stands = type(row).objects.usable().get()
    assert stands == row and stands.supersedes is not None
    assert undo_last(project=cast.project, rater=cast.bob) is not None
    assert not type(row).objects.usable().exists()


@pytest.mark.parametrize(
    ("answer", "param"),
    [
        ({"ratings": {"thumbs": 1}}, "ratings.accuracy"),
        ({"ratings": {"thumbs": 1, "accuracy": 6}}, "value"),
        ({"ratings": {"thumbs": 0, "accuracy": 5}}, "value"),
        ({"ratings": {"thumbs": 1, "accuracy": 5, "beauty": 1}}, "aspect"),
        ({"ratings": {"thumbs": 1, "accuracy": 5}, "reasons": {"accuracy": ["invented"]}}, "reasons"),
        ({"ratings": {"thumbs": 1, "accuracy": 5}, "reasons": {"tone": ["invented"]}}, "reasons.tone"),
        ({"ratings": {"thumbs": True, "accuracy": 5}}, "ratings.thumbs"),
    ],
)
def test_a_rating_off_the_form_is_refused_whole(cast: Cast, answer: Any, param: str):
    use_form(cast)
    ask(cast, "rate")
    with pytest.raises(Invalid) as refused:
        answer_task(assignment=claim(cast), answer=answer)
    assert refused.value.param == param
    assert not Rating.objects.exists()


def test_a_correction_or_the_word_that_nothing_is_wrong(cast: Cast):
    ask(cast, "correct")
    [row] = answer_task(assignment=claim(cast), answer={"text": "A better answer.\r\n"})
    assert isinstance(row, Correction) and row.text == "A better answer.\n"
    ask(cast, "correct")
    [row] = answer_task(assignment=claim(cast), answer={"is_fine": True})
    assert isinstance(row, Rating) and row.value == 1
    ask(cast, "correct")
    with pytest.raises(Invalid):
        answer_task(assignment=claim(cast), answer={"text": " \u200b"})


def test_a_page_gets_the_kinds_that_it_can_show(cast: Cast):
    ask(cast, "rate")
    assert claim_task(project=cast.project, rater=cast.bob, kinds=["compare"]) is None
    assert claim(cast, kinds=["rate", "correct"]).task.kind == "rate"


# --- drafts, leases, undo --------------------------------------------------------------------------------
def test_a_draft_outlives_a_reload_and_renews_the_lease(cast: Cast):
    ask(cast, "correct")
    question = claim(cast)
    Assignment.objects.update(lease_until=timezone.now() + timedelta(seconds=5))
    save_draft(assignment=question, draft={"text": "Half a sen"})
    again = claim(cast)
    assert (again.pk, again.draft) == (question.pk, {"text": "Half a sen"})
    assert again.lease_until > timezone.now() + timedelta(minutes=10)
    with pytest.raises(Invalid):
        save_draft(assignment=question, draft={"text": "x" * 300_000})
    skip_task(assignment=question)
    for late in (lambda: save_draft(assignment=question, draft={}), lambda: renew_lease(assignment=question)):
        with pytest.raises(LeaseLost):
            late()


def test_undo_takes_back_every_row_and_the_answer_becomes_the_draft(cast: Cast):
    use_form(cast)
    task = ask(cast, "rate")
    said = {"ratings": {"thumbs": 1, "accuracy": 5}}
    answer_task(assignment=claim(cast), answer=said)
    back = undo_last(project=cast.project, rater=cast.bob)
    assert back is not None and back.draft == said
    assert not Rating.objects.usable().exists() and Rating.objects.count() == 2
    task.refresh_from_db()
    assert (task.held, task.done, task.free, task.is_open) == (1, 0, 0, True)
    assert len(answer_task(assignment=back, answer={"ratings": {"thumbs": -1, "accuracy": 1}})) == 2


def test_a_cap_a_day(cast: Cast):
    settings(cast, daily_cap=2)
    for _ in range(3):
        ask(cast, "rate")
    for _ in range(2):
        answer_task(assignment=claim(cast), answer={"ratings": {"thumbs": 1}})
    assert claim_task(project=cast.project, rater=cast.bob) is None
    state = queue_state(project=cast.project, rater=cast.bob)
    assert (state.waiting, state.reason, state.answered_today) == (0, "cap", 2)
    assert claim(cast, cast.carol)
    undo_last(project=cast.project, rater=cast.bob)
    assert queue_state(project=cast.project, rater=cast.bob).answered_today == 1


def test_the_empty_state_says_what_is_done_and_what_waits(cast: Cast):
    assert queue_state(project=cast.project, rater=cast.bob).reason == "empty"
    for _ in range(2):
        ask(cast, "compare", 2, overlap=2)
    for rater, verdict in ((cast.bob, "left"), (cast.ada, "right")):
        question = claim(cast, rater)
        first = question.shown.index(min(question.shown))
        verdict = "left" if (first == 0) == (verdict == "left") else "right"
        answer_task(assignment=question, answer={"verdict": verdict})
    answer_task(assignment=claim(cast, cast.bob), answer={"verdict": "tie"})
    claim(cast, cast.carol)
    assert claim_task(project=cast.project, rater=cast.bob) is None
    state = queue_state(project=cast.project, rater=cast.bob, is_empty=True)
    assert (state.reason, state.total, state.complete, state.reviews, state.held) == ("done", 2, 1, 1, 1)


# --- gold ------------------------------------------------------------------------------------------------
def test_gold_is_slipped_in_and_noted_without_a_word(cast: Cast):
    settings(cast, gold_share=1.0)
    ask(cast, "rate")
    gold = ask(cast, "rate", gold={"ratings": {"thumbs": [1]}})
    question = claim(cast)
    assert question.task == gold
    answer_task(assignment=question, answer={"ratings": {"thumbs": -1}})
    question.refresh_from_db()
    assert question.is_correct is False
    assert claim(cast).task != gold, "nobody meets the same gold twice"
    answer_task(assignment=claim(cast, cast.carol), answer={"ratings": {"thumbs": 1}})
    assert Assignment.objects.get(task=gold, rater=cast.carol).is_correct


def test_a_new_rater_qualifies_on_gold_first(cast: Cast):
    settings(cast, qualification_tasks=1)
    ask(cast, "rate")
    assert claim_task(project=cast.project, rater=cast.bob) is None
    state = queue_state(project=cast.project, rater=cast.bob)
    assert (state.reason, state.qualification_left) == ("unqualified", 1)
    gold = ask(cast, "rate", gold={"ratings": {"thumbs": [1]}})
    assert claim(cast).task == gold


def test_gold_that_nobody_can_meet_is_refused(cast: Cast):
    for kind, gold in (
        ("compare", {"best": [str(uuid7())]}),
        ("compare", {}),
        ("rate", {"ratings": {"thumbs": [3]}}),
        ("rate", {"ratings": {"beauty": [1]}}),
        ("correct", {"contains": []}),
    ):
        with pytest.raises(Invalid):
            ask(cast, kind, 2 if kind == "compare" else 1, gold=gold)
    assert not Task.objects.exists()


# --- reviews ---------------------------------------------------------------------------------------------
def disagree(cast: Cast) -> Task:
    task = ask(cast, "rate", overlap=2)
    for rater, value in ((cast.bob, 1), (cast.ada, -1)):
        answer_task(assignment=claim(cast, rater), answer={"ratings": {"thumbs": value}})
    task.refresh_from_db()
    return task


def test_raters_who_disagree_go_to_a_reviewer_whose_word_is_final(cast: Cast):
    task = disagree(cast)
    assert (task.outcome, task.agreement) == ("disputed", 0.0)
    with pytest.raises(NotFound):
        claim_task(project=cast.project, rater=cast.bob, kinds=["review"])
    assert claim_task(project=cast.project, rater=cast.ada, kinds=["review"]) is None, "she judged it herself"
    review = claim(cast, cast.carol, kinds=["review"])
    assert (review.task.disputed, review.task.asks) == (task, "rate")
    [row] = answer_task(assignment=review, answer={"ratings": {"thumbs": -1}})
    assert isinstance(row, Rating) and row.is_final
    task.refresh_from_db()
    assert task.outcome == "settled"
    assert Rating.objects.usable().count() == 3, "nobody's row is changed"
    undo_last(project=cast.project, rater=cast.carol)
    task.refresh_from_db()
    assert task.outcome == "disputed"


def test_raters_who_agree_need_no_reviewer(cast: Cast):
    task = ask(cast, "rate", overlap=2)
    for rater in (cast.bob, cast.ada):
        answer_task(assignment=claim(cast, rater), answer={"ratings": {"thumbs": 1}})
    task.refresh_from_db()
    assert (task.outcome, task.agreement) == ("agreed", 1.0)
    assert claim_task(project=cast.project, rater=cast.carol, kinds=["review"]) is None


def test_an_answer_of_anothers_conversation_is_asked_of_nobody_else(cast: Cast):
    task = ask(cast, "rate")
    Task.objects.filter(pk=task.pk).update(only_for=cast.ada)
    assert claim_task(project=cast.project, rater=cast.bob) is None
    assert claim(cast, cast.ada).task == task
    assert Completion.objects.count() == 1
