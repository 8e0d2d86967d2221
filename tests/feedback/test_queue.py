"""The queue of comparisons as one rater meets it: claim, answer, skip, undo, and where tasks come from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from feedback.errors import AlreadyJudged, LeaseLost, NotJudgeable
from feedback.models import Assignment, Preference, Task
from feedback.services.answers import answer_task
from feedback.services.judge import Judge
from feedback.services.queue import (
    LEASE,
    assignment_for,
    claim_task,
    skip_task,
    undo_last,
    waiting_count,
)
from feedback.services.record import record_preference, retract_feedback
from feedback.services.tasks import GATE_PRIORITY, create_compare_task
from inference.models import Completion, Conversation
from projects.errors import Invalid, NotFound
from projects.models import User
from tests.cast import Cast


def claim(cast: Cast, rater: User | None = None) -> Assignment:
    found = claim_task(project=cast.project, rater=rater or cast.bob)
    assert found is not None
    return found


def say(assignment: Assignment, verdict: str, **more: Any) -> Preference:
    [row] = answer_task(assignment=assignment, answer={"verdict": verdict}, **more)
    assert isinstance(row, Preference)
    return row


def nothing_for(cast: Cast, rater: User) -> bool:
    return claim_task(project=cast.project, rater=rater) is None and waiting_count(cast.project, rater) == 0


def run_out(assignment: Assignment) -> None:
    Assignment.objects.filter(pk=assignment.pk).update(lease_until=timezone.now() - timedelta(seconds=1))


# --- claim and answer ------------------------------------------------------------------------------------
def test_there_is_nothing_to_ask_in_an_empty_project(cast: Cast):
    assert nothing_for(cast, cast.bob)
    assert undo_last(project=cast.project, rater=cast.bob) is None


def test_a_reload_shows_the_same_question_in_the_same_order(cast: Cast):
    for number in range(3):
        cast.answered_prompt(f"Question {number}?")
    first = claim(cast)
    again = claim(cast)
    assert (again.pk, again.shown) == (first.pk, first.shown)
    assert again.lease_until > timezone.now() + LEASE - timedelta(seconds=5)
    assert waiting_count(cast.project, cast.bob) == 3


def test_a_page_can_fetch_one_question_ahead(cast: Cast):
    for number in range(2):
        cast.answered_prompt(f"Question {number}?")
    shown = claim(cast)
    ahead = claim_task(project=cast.project, rater=cast.bob, besides=[shown.pk])
    assert ahead is not None and ahead.task_id != shown.task_id
    assert claim_task(project=cast.project, rater=cast.bob, besides=[shown.pk, ahead.pk]) is None
    # Somebody else's assignment hides nothing.
    assert claim_task(project=cast.project, rater=cast.carol, besides=[shown.pk]) is None


@pytest.mark.parametrize(
    ("verdict", "ranks"), [("left", [1, 2]), ("right", [2, 1]), ("tie", [1, 1]), ("both_bad", [None, None])]
)
def test_an_answer_is_a_preference_in_shown_order(cast: Cast, verdict: str, ranks: list[int | None]):
    cast.answered_prompt()
    question = claim(cast)
    said = say(question, verdict, seconds_spent=3.5)
    sides = list(said.candidates.all())
    assert [str(side.completion_id) for side in sides] == question.shown
    assert [side.rank for side in sides] == ranks
    assert said.all_bad is (verdict == "both_bad")
    assert (said.rater, said.source, said.seconds_spent) == (cast.bob, "ui", 3.5)
    question.refresh_from_db()
    assert (question.state, said.assignment) == (Assignment.State.DONE, question)
    assert nothing_for(cast, cast.bob) and nothing_for(cast, cast.carol)


def test_sides_are_shuffled(cast: Cast):
    orders = set()
    for number in range(20):
        _, answers = cast.answered_prompt(f"Question {number}?")
        question = claim(cast)
        orders.add(question.shown.index(str(answers[0].pk)))
        say(question, "left")
    assert orders == {0, 1}  # fails once in 500,000 runs


def test_the_same_answer_twice_is_one_and_another_is_a_conflict(cast: Cast):
    cast.answered_prompt()
    question = claim(cast)
    first = say(question, "left")
    assert say(question, "left") == first
    for other in ("right", "tie", "both_bad"):
        with pytest.raises(AlreadyJudged) as refused:
            say(question, other)
        assert refused.value.extra == {"id": str(first.pk)}
    assert Task.objects.get().done == Preference.objects.count() == 1


def test_an_unknown_verdict(cast: Cast):
    cast.answered_prompt()
    with pytest.raises(Invalid):
        say(claim(cast), "middle")
    assert not Preference.objects.exists()


def test_an_assignment_is_found_by_its_rater_alone(cast: Cast):
    cast.answered_prompt()
    question = claim(cast)
    assert assignment_for(project=cast.project, rater=cast.bob, assignment_id=question.pk) == question
    for project, rater in ((cast.project, cast.carol), (cast.garden, cast.bob), (cast.garden, cast.eve)):
        with pytest.raises(NotFound):
            assignment_for(project=project, rater=rater, assignment_id=question.pk)


def test_overlap_asks_so_many_raters_and_nobody_twice(cast: Cast):
    prompt, answers = cast.answered_prompt()
    task = create_compare_task(project=cast.project, prompt=prompt, completions=answers, overlap=2)
    first, second = claim(cast, cast.bob), claim(cast, cast.carol)
    assert nothing_for(cast, cast.ada)
    say(first, "left")
    assert nothing_for(cast, cast.bob) and nothing_for(cast, cast.ada)
    say(second, "left")
    task.refresh_from_db()
    assert (task.done, task.is_open) == (2, False)


# --- leases ----------------------------------------------------------------------------------------------
def test_a_lease_that_ran_out_goes_to_the_next_rater_and_the_late_answer_is_refused(cast: Cast):
    cast.answered_prompt()
    late = claim(cast, cast.bob)
    assert nothing_for(cast, cast.carol)
    run_out(late)
    taken = claim(cast, cast.carol)
    assert taken.task_id == late.task_id
    with pytest.raises(LeaseLost) as refused:
        say(late, "left")
    assert refused.value.code == "lease_lost"
    say(taken, "right")
    assert nothing_for(cast, cast.bob)


def test_a_late_answer_counts_while_the_place_is_free(cast: Cast):
    cast.answered_prompt()
    late = claim(cast)
    run_out(late)
    assert say(late, "left").rater == cast.bob
    assert nothing_for(cast, cast.carol)


def test_a_rater_takes_up_a_lease_that_ran_out(cast: Cast):
    cast.answered_prompt()
    first = claim(cast)
    run_out(first)
    again = claim(cast)
    assert (again.pk, again.shown) == (first.pk, first.shown)
    assert again.lease_until > timezone.now()


# --- skip and undo ---------------------------------------------------------------------------------------
def test_a_skipped_question_goes_to_others(cast: Cast):
    cast.answered_prompt()
    question = claim(cast)
    assert skip_task(assignment=question, reason="I know nothing of eggs.")
    assert not skip_task(assignment=question)
    assert Assignment.objects.get().skip_reason == "I know nothing of eggs."
    assert nothing_for(cast, cast.bob)
    with pytest.raises(LeaseLost):
        say(question, "left")
    assert claim(cast, cast.carol).task_id == question.task_id


def test_undo_takes_the_judgement_back_and_shows_the_question_again(cast: Cast):
    for number in range(2):
        cast.answered_prompt(f"Question {number}?")
    first = claim(cast)
    said = say(first, "left")
    claim(cast)  # the next one is already on the screen
    back = undo_last(project=cast.project, rater=cast.bob)
    assert back == first
    said.refresh_from_db()
    assert said.retracted is not None
    shown = claim(cast)
    assert (shown.pk, shown.shown) == (first.pk, first.shown)
    again = say(shown, "right")
    assert again.pk != said.pk and again.is_usable
    task = Task.objects.get(pk=first.task_id)
    assert (task.done, task.is_open) == (1, False)


def test_undo_goes_back_answer_by_answer_and_over_skips(cast: Cast):
    for number in range(3):
        cast.answered_prompt(f"Question {number}?")
    questions = []
    for verdict in ("left", None, "tie"):
        question = claim(cast)
        questions.append(question)
        if verdict is None:
            skip_task(assignment=question)
        else:
            say(question, verdict)
    assert [undo_last(project=cast.project, rater=cast.bob) for _ in range(4)] == [*questions[::-1], None]
    assert not Preference.objects.usable().exists()
    assert Task.objects.filter(done=0, is_open=True).count() == 3


def test_a_skip_cannot_be_undone_once_somebody_else_has_the_question(cast: Cast):
    cast.answered_prompt()
    skip_task(assignment=claim(cast))
    say(claim(cast, cast.carol), "left")
    with pytest.raises(LeaseLost):
        undo_last(project=cast.project, rater=cast.bob)
    assert Preference.objects.usable().count() == 1


def test_undo_is_for_ones_own_project_alone(cast: Cast):
    cast.answered_prompt()
    say(claim(cast), "left")
    assert undo_last(project=cast.project, rater=cast.carol) is None
    assert undo_last(project=cast.garden, rater=cast.bob) is None
    assert Preference.objects.usable().count() == 1


def test_a_retracted_answer_opens_the_question_again(cast: Cast):
    cast.answered_prompt()
    said = say(claim(cast), "left")
    retract_feedback(project=cast.project, judge=Judge(user=cast.bob), feedback_id=said.pk)
    task = Task.objects.get()
    assert (task.done, task.is_open) == (0, True)
    assert claim(cast, cast.carol).task == task


# --- what is asked ---------------------------------------------------------------------------------------
def test_gate_battles_come_first(cast: Cast):
    cast.answered_prompt("Something for training?")
    old, answers = cast.answered_prompt("Something old?")
    create_compare_task(project=cast.project, prompt=old, completions=answers)
    gate, sides = cast.answered_prompt("Something for the gate?", split="gate")
    battle = create_compare_task(project=cast.project, prompt=gate, completions=sides, priority=GATE_PRIORITY)
    assert claim(cast).task == battle


def test_asking_the_same_again_is_the_same_task_and_may_raise_its_priority(cast: Cast):
    prompt, answers = cast.answered_prompt()
    first = create_compare_task(project=cast.project, prompt=prompt, completions=answers)
    again = create_compare_task(
        project=cast.project, prompt=prompt, completions=answers[::-1], priority=GATE_PRIORITY
    )
    assert first == again
    assert Task.objects.get().priority == GATE_PRIORITY
    assert set(first.completions.all()) == set(answers)


def test_what_cannot_be_compared_is_no_task(cast: Cast):
    prompt, answers = cast.answered_prompt()
    _, others = cast.answered_prompt("Why is the sky blue?")
    running = cast.answer(prompt, state="running")
    for completions in ([answers[0]], [answers[0]] * 2, [answers[0], others[0]], [*answers, others[0]]):
        with pytest.raises(Invalid):
            create_compare_task(project=cast.project, prompt=prompt, completions=completions)
    with pytest.raises(NotJudgeable):
        create_compare_task(project=cast.project, prompt=prompt, completions=[answers[0], running])
    assert not Task.objects.exists()


def test_questions_are_made_of_different_finished_answers_to_train_prompts(cast: Cast):
    cast.answered_prompt("One answer?", ["Yes."])
    cast.answered_prompt("The same answer twice?", ["Yes.", "Yes."])
    cast.answered_prompt("A gate prompt?", split="gate")
    prompt, _ = cast.answered_prompt("One finished?", ["Yes."])
    cast.answer(prompt, "Perhaps", state="stopped")
    cast.answer(prompt, "No", state="failed")
    cast.answer(prompt, state="running")
    _, [_, bad] = cast.answered_prompt("One put out of use?")
    Completion.objects.filter(pk=bad.pk).update(quarantined=True)
    cast.answered_prompt("In the garden?", project=cast.garden)
    assert nothing_for(cast, cast.bob)
    good, _ = cast.answered_prompt("A good one?", ["Yes.", "Yes.", "No."])
    question = claim(cast)
    assert question.task.prompt == good
    texts = set(Completion.objects.filter(pk__in=question.shown).values_list("text", flat=True))
    assert texts == {"Yes.", "No."}


def test_nobody_sees_another_persons_conversation(cast: Cast):
    private = Conversation.objects.create(project=cast.project, owner=cast.ada)
    prompt, answers = cast.answered_prompt("My secret?", conversation=private)
    assert nothing_for(cast, cast.bob) and nothing_for(cast, cast.carol)
    assert claim(cast, cast.ada).task.prompt == prompt
    run_out(Assignment.objects.get())
    assert nothing_for(cast, cast.bob)
    with pytest.raises(NotFound):
        record_preference(
            project=cast.project,
            judge=Judge(user=cast.bob),
            candidates=[one.pk for one in answers],
            ranks=[1, 2],
            source="ui",
        )


def test_what_a_rater_judged_elsewhere_is_not_asked_again(cast: Cast):
    prompt, answers = cast.answered_prompt()
    create_compare_task(project=cast.project, prompt=prompt, completions=answers)
    held = claim(cast)
    record_preference(
        project=cast.project,
        judge=Judge(user=cast.bob),
        candidates=[one.pk for one in answers],
        ranks=[1, 2],
        source="ui",
        is_shown=True,
    )
    assert nothing_for(cast, cast.bob)
    with pytest.raises(AlreadyJudged):
        say(held, "left")


def test_an_answer_put_out_of_use_takes_its_question_along(cast: Cast):
    prompt, answers = cast.answered_prompt()
    create_compare_task(project=cast.project, prompt=prompt, completions=answers)
    held = claim(cast)
    Completion.objects.filter(pk=answers[0].pk).update(text="", quarantined=True)  # erased
    with pytest.raises(NotJudgeable):
        say(held, "left")
    assert nothing_for(cast, cast.bob) and nothing_for(cast, cast.carol)


def test_the_number_of_queries_does_not_grow_with_the_queue(cast: Cast, django_assert_max_num_queries):
    for number in range(12):
        prompt, answers = cast.answered_prompt(f"Question {number}?")
        create_compare_task(project=cast.project, prompt=prompt, completions=answers)
    claim(cast, cast.carol)  # the line is drawn
    with django_assert_max_num_queries(16):
        question = claim(cast)
    with django_assert_max_num_queries(20):
        say(question, "left")
