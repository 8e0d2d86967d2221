"""Flags set an answer aside; taking them back, or somebody's word, brings it back into use."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.errors import NotJudgeable, NotSetAside
from feedback.models import Flag, SetAside, Task
from feedback.services.erasure import erase_about
from feedback.services.judge import Judge
from feedback.services.queue import claim_task
from feedback.services.raters import quarantine_rater, restore_rater
from feedback.services.record import record_flag, retract_feedback
from feedback.services.set_aside import release_answer
from feedback.services.tasks import create_compare_task
from feedback.services.workbench import update_workbench
from inference.models import Completion
from projects.errors import NotFound
from projects.models import AuditEvent, User
from projects.people import Person
from projects.services import Actor, add_member
from tests.cast import Cast, error_of
from tests.feedback.judging import flag, rating
from tests.feedback.test_races import post, together

pytestmark = pytest.mark.django_db


@pytest.fixture
def answers(cast: Cast) -> list[Completion]:
    """Two, in a question that waits for raters."""
    prompt, made = cast.answered_prompt()
    create_compare_task(project=cast.project, prompt=prompt, completions=made)
    return made


def flagged(cast: Cast, answer: Completion, by: User, reason: str = "unsafe") -> Flag:
    row, _ = record_flag(
        project=cast.project, judge=Judge(user=by), completion_id=answer.pk, reason=reason, source="ui",
        is_shown=True,
    )  # fmt: skip
    return row


def another_rater(cast: Cast) -> User:
    dan = User.objects.create_user("dan")
    add_member(project=cast.project, user=dan, role="rater", actor=Actor(user=cast.ada))
    return dan


def is_set_aside(answer: Completion) -> bool:
    """By the answer itself, by its open row and by its question, which say the same."""
    answer.refresh_from_db()
    assert SetAside.objects.standing().filter(completion=answer).exists() == answer.quarantined
    assert Task.objects.get().is_open != answer.quarantined
    return answer.quarantined


def take_back(cast: Cast, row: Flag) -> None:
    assert row.rater is not None
    retract_feedback(project=cast.project, judge=Judge(user=row.rater), feedback_id=row.pk)


@pytest.mark.parametrize("who", ["carol", "ada"])
def test_one_flag_of_a_reviewer_is_enough(cast: Cast, answers: list[Completion], who: str):
    row = flagged(cast, answers[0], getattr(cast, who), "spam")
    assert is_set_aside(answers[0])
    assert claim_task(project=cast.project, rater=cast.bob) is None
    assert cast.post("feedback", rating(answers[0])).status_code == 201  # it counts again with the answer
    prompt = answers[0].prompt
    with pytest.raises(NotJudgeable, match="set aside") as refused:
        create_compare_task(
            project=cast.project, prompt=prompt, completions=[answers[0], cast.answer(prompt)]
        )
    assert refused.value.code == "completion_set_aside"
    told = AuditEvent.objects.get(action="answer.set_aside")
    assert (told.subject, told.detail) == (f"completion:{answers[0].pk}", {"reasons": ["spam"], "judges": 1})

    take_back(cast, row)
    assert not is_set_aside(answers[0])
    assert claim_task(project=cast.project, rater=cast.bob) is not None


def test_of_raters_it_takes_two_and_one_person_is_one_whatever_they_say(
    cast: Cast, answers: list[Completion]
):
    flagged(cast, answers[0], cast.bob, "spam")
    second = flagged(cast, answers[0], cast.bob, "broken")
    assert not is_set_aside(answers[0])
    flagged(cast, answers[0], another_rater(cast))
    assert is_set_aside(answers[0])
    take_back(cast, second)  # bob has said another reason, too
    assert is_set_aside(answers[0])
    take_back(cast, Flag.objects.get(rater=cast.bob, reason="spam"))
    assert not is_set_aside(answers[0])
    assert not SetAside.objects.get().is_overruled


@pytest.mark.parametrize(("wanted", "flags", "is_enough"), [(1, 1, True), (3, 2, False), (0, 2, False)])
def test_the_workbench_says_how_many(
    cast: Cast, answers: list[Completion], wanted: int, flags: int, is_enough: bool
):
    update_workbench(project=cast.project, actor=Actor(user=cast.ada), flag_raters=wanted)
    for person in (cast.bob, another_rater(cast))[:flags]:
        flagged(cast, answers[0], person)
    assert is_set_aside(answers[0]) == is_enough
    flagged(cast, answers[0], cast.carol)
    assert is_set_aside(answers[0])


def test_users_of_a_program_count_like_raters_and_a_managing_key_speaks_alone(
    cast: Cast, answers: list[Completion]
):
    assert cast.post("feedback", flag(answers[0], subject="ann")).status_code == 201
    assert cast.post("feedback", flag(answers[0], subject="ann")).status_code == 409
    assert cast.post("feedback", flag(answers[0], subject="ben"), key=cast.foreign_key).status_code == 404
    assert not is_set_aside(answers[0])
    second = cast.post("feedback", flag(answers[0], subject="ben")).json()["id"]
    assert is_set_aside(answers[0])
    assert cast.delete(f"feedback/{second}").status_code == 200
    assert not is_set_aside(answers[0])
    assert (
        cast.post("feedback", flag(answers[0], "spam", subject="ann"), key=cast.manage_key).status_code == 201
    )
    assert cast.post("feedback", flag(answers[0]), key=cast.manage_key).status_code == 201
    assert is_set_aside(answers[0])


def test_flags_in_a_batch_count_at_its_end(cast: Cast, answers: list[Completion]):
    items = [flag(answers[0], subject=who) for who in ("ann", "ann", "ben")]
    results = cast.post("feedback/batch", {"items": [*items, rating(answers[0])]}).json()["results"]
    assert [one["status"] for one in results] == [201, 409, 201, 201]
    assert is_set_aside(answers[0])


def test_who_releases_it_overrules_the_flags_of_before(cast: Cast, answers: list[Completion]):
    flagged(cast, answers[0], cast.bob)
    flagged(cast, answers[0], another_rater(cast))
    carol = Actor(user=cast.carol)
    row = release_answer(project=cast.project, completion_id=answers[0].pk, actor=carol)
    assert (row.released_by, row.is_overruled) == (cast.carol, True)
    assert not is_set_aside(answers[0])
    assert AuditEvent.objects.get(action="answer.released").user == cast.carol
    with pytest.raises(NotSetAside):
        release_answer(project=cast.project, completion_id=answers[0].pk, actor=carol)

    flagged(cast, answers[0], cast.bob, "broken")  # one flag that is new
    assert not is_set_aside(answers[0])
    flagged(cast, answers[0], cast.ada)
    assert is_set_aside(answers[0])
    with pytest.raises(NotFound):
        release_answer(project=cast.garden, completion_id=answers[0].pk, actor=Actor(user=cast.eve))


def test_a_question_with_another_answer_set_aside_stays_closed(cast: Cast, answers: list[Completion]):
    flags = [flagged(cast, answer, cast.carol) for answer in answers]
    take_back(cast, flags[0])
    assert not Completion.objects.get(pk=answers[0].pk).quarantined
    assert not Task.objects.get().is_open
    take_back(cast, flags[1])
    assert Task.objects.get().is_open


def test_flags_of_a_rater_in_quarantine_count_for_nothing(cast: Cast, answers: list[Completion]):
    flagged(cast, answers[0], cast.bob)
    flagged(cast, answers[0], another_rater(cast))
    ada = Actor(user=cast.ada)
    quarantine_rater(project=cast.project, rater=cast.bob, reason="Flags everything.", actor=ada)
    assert not is_set_aside(answers[0])
    restore_rater(project=cast.project, rater=cast.bob, reason="A misunderstanding.", actor=ada)
    assert is_set_aside(answers[0])


def test_an_erased_person_is_named_no_more_as_the_one_who_released(cast: Cast, answers: list[Completion]):
    flagged(cast, answers[0], cast.ada)
    release_answer(project=cast.project, completion_id=answers[0].pk, actor=Actor(user=cast.carol))
    erase_about(Person(project=cast.project, user=cast.carol))
    assert SetAside.objects.get().released_by is None


@pytest.mark.django_db(transaction=True)
def test_of_two_flags_at_once_the_second_one_sees_the_first(cast: Cast):
    for number in range(4):
        _, (answer, _) = cast.answered_prompt(f"Question {number}?")
        responses: list[Any] = together([post(cast, flag(answer, subject=who)) for who in ("ann", "ben")])
        assert [one.status_code for one in responses] == [201, 201]
        answer.refresh_from_db()
        assert answer.quarantined
        assert SetAside.objects.filter(completion=answer).count() == 1


def test_programs_list_what_is_set_aside_and_release_it(cast: Cast, answers: list[Completion]):
    for answer in answers:
        flagged(cast, answer, cast.carol)
    rows = cast.get("set-aside", {"state": "standing"}).json()["items"]
    assert [row["completion_id"] for row in rows] == [str(answers[1].pk), str(answers[0].pk)]
    place = f"set-aside/{answers[0].pk}/release"
    assert error_of(cast.post(place))["code"] == "insufficient_scope"
    assert error_of(cast.post(place, key=cast.foreign_key))["code"] == "not_found"
    row = cast.post(place, key=cast.manage_key).json()
    assert (row["completion_id"], row["is_overruled"], row["released_by"]) == (str(answers[0].pk), True, None)
    assert row["released"] is not None
    again = cast.post(place, key=cast.manage_key)
    assert (again.status_code, error_of(again)["code"]) == (409, "not_set_aside")
    assert [one["id"] for one in cast.get("set-aside", {"state": "released"}).json()["items"]] == [row["id"]]

    first = cast.get("set-aside", {"limit": 1}).json()
    rest = cast.get("set-aside", {"limit": 1, "cursor": first["next"]}).json()
    assert [one["completion_id"] for one in first["items"] + rest["items"]] == [
        str(one.pk) for one in reversed(answers)
    ]
    assert rest["next"] is None
    assert error_of(cast.get("set-aside", {"state": "gone"}))["param"] == "state"
    assert cast.get("set-aside", key=cast.foreign_key).json()["items"] == []
