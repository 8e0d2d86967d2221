"""One judgement by REST: said, said again, changed, taken back; and by whom."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.models import Candidate, Correction, Flag, Preference, Rating
from inference.models import Completion
from projects.ids import uuid7
from projects.models import AuditEvent
from projects.services import SYSTEM, create_api_key
from tests.cast import Cast, error_of
from tests.feedback.judging import correction, flag, preference, rating

KINDS = ["rating", "preference", "correction", "flag"]


@pytest.fixture
def answers(cast: Cast) -> list[Completion]:
    return cast.answered_prompt(answers=["In water.", "Eight minutes in boiling water.", "No."])[1]


def saying(kind: str, answers: list[Completion], other: bool = False, **more: Any) -> dict[str, Any]:
    """A judgement of this kind, or another one about the same thing."""
    return {
        "rating": lambda: rating(answers[0], -1 if other else 1, **more),
        "preference": lambda: preference(answers[:2], [2, 1] if other else [1, 2], **more),
        "correction": lambda: correction(answers[0], "Other words." if other else "Better words.", **more),
        "flag": lambda: flag(answers[0], "spam", comment="again" if other else "", **more),
    }[kind]()


# --- said ------------------------------------------------------------------------------------------------
def test_a_rating(cast: Cast, answers: list[Completion]):
    body = rating(
        answers[0], 1, reasons=["clear", "correct"], comment="Good.", subject="user-7", seconds_spent=2.5
    )
    response = cast.post("feedback", body)
    assert response.status_code == 201
    said = response.json()
    assert said | body == said
    assert (said["source"], said["rater"], said["supersedes"], said["retracted"]) == ("api", None, None, None)
    row = Rating.objects.get(pk=said["id"])
    assert (row.api_key, row.judge) == (cast.api_key, f"key:{cast.api_key.pk}:user-7")
    assert (row.project, row.aspect, row.guideline_version) == (cast.project, "thumbs", 1)


def test_the_response_of_v1_names_its_first_choice(cast: Cast, answers: list[Completion]):
    # LangChain and LiteLLM keep the response's id and drop `completion_id`.
    first, second = (f"chatcmpl-{one.pk}" for one in answers[:2])
    said = [
        {"kind": "rating", "completion_id": first, "value": 1},
        {"kind": "correction", "completion_id": first, "text": "Boil it for eight minutes."},
        {"kind": "flag", "completion_id": first, "reason": "spam"},
        {"kind": "preference", "candidates": [first, second], "ranks": [1, 2]},
    ]
    for body in said:
        response = cast.post("feedback", body)
        assert response.status_code == 201, response.content
        row = response.json()
        assert str(answers[0].pk) in (row.get("completion_id"), *row.get("candidates", ()))


def test_a_preference_keeps_the_order_in_which_answers_were_shown(cast: Cast, answers: list[Completion]):
    shown = [answers[2], answers[0], answers[1]]
    response = cast.post("feedback", preference(shown, [3, 1, 1]))
    assert response.status_code == 201
    said = response.json()
    assert said["candidates"] == [str(one.pk) for one in shown]
    assert (said["ranks"], said["all_bad"]) == ([3, 1, 1], False)
    sides = Candidate.objects.filter(preference=said["id"])
    assert [(side.position, side.rank, side.completion) for side in sides] == [
        (0, 3, shown[0]),
        (1, 1, shown[1]),
        (2, 1, shown[2]),
    ]


def test_all_bad_has_no_ranks(cast: Cast, answers: list[Completion]):
    said = cast.post("feedback", preference(answers[:2])).json()
    assert (said["ranks"], said["all_bad"]) == (None, True)


def test_a_strong_preference(cast: Cast, answers: list[Completion]):
    assert cast.post("feedback", preference(answers[:2], [1, 2], strength=3)).json()["strength"] == 3


def test_a_correction_keeps_its_text_with_plain_newlines(cast: Cast, answers: list[Completion]):
    said = cast.post("feedback", correction(answers[0], " One.\r\nTwo.\r ")).json()
    assert said["text"] == " One.\nTwo.\n "
    assert Correction.objects.get(pk=said["id"]).completion == answers[0]


def test_flags_of_different_reasons_stand_side_by_side(cast: Cast, answers: list[Completion]):
    for reason in Flag.Reason.values:
        assert cast.post("feedback", flag(answers[0], reason)).status_code == 201
    assert Flag.objects.usable().count() == len(Flag.Reason)


def test_a_stopped_answer_can_be_judged(cast: Cast, answers: list[Completion]):
    stopped = cast.answer(answers[0].prompt, "Eight min", state="stopped")
    assert cast.post("feedback", rating(stopped)).status_code == 201
    assert cast.post("feedback", preference([answers[0], stopped], [1, 2])).status_code == 201


# --- said again ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_again_by_the_same_judge_is_a_conflict_that_names_the_first(
    cast: Cast, answers: list[Completion], kind: str
):
    first = cast.post("feedback", saying(kind, answers)).json()["id"]
    for other in (False, True):
        again = cast.post("feedback", saying(kind, answers, other))
        assert again.status_code == 409
        assert (error_of(again)["code"], error_of(again)["id"]) == ("already_judged", first)
    assert cast.post("feedback", saying(kind, answers, subject="somebody else")).status_code == 201


def test_the_same_answers_in_another_order_are_the_same_comparison(cast: Cast, answers: list[Completion]):
    assert cast.post("feedback", preference(answers[:2], [1, 2])).status_code == 201
    assert cast.post("feedback", preference(answers[1::-1], [1, 2])).status_code == 409
    assert cast.post("feedback", preference(answers, [1, 2, 3])).status_code == 201


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_id_and_body_is_the_first_answer(cast: Cast, answers: list[Completion], kind: str):
    body = saying(kind, answers, id=str(uuid7()))
    first, second = cast.post("feedback", body), cast.post("feedback", body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.json()["id"] == body["id"]
    # Whatever became of it since: taken back, and its answer put out of use.
    cast.delete(f"feedback/{body['id']}")
    Completion.objects.update(quarantined=True)
    third = cast.post("feedback", body)
    assert third.status_code == 200 and third.json()["retracted"] is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_id_and_another_body_is_refused(cast: Cast, answers: list[Completion], kind: str):
    feedback_id = str(uuid7())
    assert cast.post("feedback", saying(kind, answers, id=feedback_id)).status_code == 201
    others = [saying(one, answers, other=True, id=feedback_id) for one in KINDS]
    others += [
        saying(kind, answers, id=feedback_id, subject="x"),
        saying(kind, answers, id=feedback_id, seconds_spent=1),
    ]
    for other in others:
        refused = cast.post("feedback", other)
        assert (refused.status_code, error_of(refused)["code"]) == (422, "id_reused")
    assert sum(model.objects.count() for model in (Rating, Preference, Correction, Flag)) == 1


def test_an_id_of_another_project_is_reused_as_well(cast: Cast, answers: list[Completion]):
    body = saying("rating", answers, id=str(uuid7()))
    assert cast.post("feedback", body).status_code == 201
    _, theirs = cast.answered_prompt(project=cast.garden)
    refused = cast.post("feedback", rating(theirs[0], id=body["id"]), key=cast.foreign_key)
    assert (refused.status_code, error_of(refused)["code"]) == (422, "id_reused")


@pytest.mark.parametrize("wrong", ["0b7d9a52-9d1c-4f6e-8a51-3f2d8e1c7a90", "1", "", 7, "../feedback"])
def test_an_id_must_be_a_uuid7(cast: Cast, answers: list[Completion], wrong: Any):
    refused = cast.post("feedback", rating(answers[0], id=wrong))
    assert (refused.status_code, error_of(refused)["param"]) == (422, "id")


# --- changed ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_supersedes_replaces_the_first(cast: Cast, answers: list[Completion], kind: str):
    first = cast.post("feedback", saying(kind, answers)).json()
    second = cast.post("feedback", saying(kind, answers, other=True, supersedes=first["id"]))
    assert second.status_code == 201
    assert second.json()["supersedes"] == first["id"]
    log = {row["id"]: row for row in cast.get("feedback").json()["items"]}
    # The old one ends when the new one begins, so that every moment has exactly one.
    assert log[first["id"]]["superseded"] == second.json()["created"]
    assert log[second.json()["id"]]["superseded"] is None
    third = cast.post("feedback", saying(kind, answers))
    assert (third.status_code, error_of(third)["id"]) == (409, second.json()["id"])


def test_a_replay_of_what_superseded_is_a_replay(cast: Cast, answers: list[Completion]):
    first = cast.post("feedback", rating(answers[0])).json()["id"]
    body = rating(answers[0], -1, supersedes=first, id=str(uuid7()))
    assert [cast.post("feedback", body).status_code for _ in range(2)] == [201, 200]


def test_a_flag_may_change_its_reason(cast: Cast, answers: list[Completion]):
    first = cast.post("feedback", flag(answers[0], "spam")).json()["id"]
    assert cast.post("feedback", flag(answers[0], "unsafe", supersedes=first)).status_code == 201
    assert [row.reason for row in Flag.objects.usable()] == ["unsafe"]


def test_only_a_standing_judgement_of_ones_own_on_the_same_thing_can_be_superseded(
    cast: Cast, answers: list[Completion]
):
    mine = cast.post("feedback", rating(answers[0])).json()["id"]
    theirs = cast.post("feedback", rating(answers[0], subject="somebody else")).json()["id"]
    cast.post("feedback", rating(answers[0], -1, supersedes=mine))
    gone = cast.post("feedback", rating(answers[1])).json()["id"]
    cast.delete(f"feedback/{gone}")
    elsewhere = cast.post("feedback", rating(answers[2])).json()["id"]
    for body, status, code in [
        (rating(answers[0], supersedes=mine), 409, "not_standing"),
        (rating(answers[1], supersedes=gone), 409, "not_standing"),
        (rating(answers[0], supersedes=theirs), 404, "not_found"),
        (rating(answers[0], supersedes=str(uuid7())), 404, "not_found"),
        (flag(answers[2], supersedes=elsewhere), 404, "not_found"),
        (rating(answers[1], supersedes=elsewhere), 422, "not_the_same_thing"),
    ]:
        refused = cast.post("feedback", body)
        assert (refused.status_code, error_of(refused)["code"]) == (status, code), body
    assert Rating.objects.usable().count() == 3  # nothing that was refused closed anything


# --- taken back ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_retracted_twice_and_judged_anew(cast: Cast, answers: list[Completion], kind: str):
    first = cast.post("feedback", saying(kind, answers)).json()["id"]
    gone = cast.delete(f"feedback/{first}")
    assert gone.status_code == 200 and gone.json()["retracted"] is not None
    assert cast.delete(f"feedback/{first}").json() == gone.json()
    assert cast.post("feedback", saying(kind, answers)).status_code == 201


def test_who_may_take_back_what(cast: Cast, answers: list[Completion]):
    _, neighbour = create_api_key(
        project=cast.project, name="neighbour", scopes=["feedback:write"], actor=SYSTEM
    )
    mine = cast.post("feedback", rating(answers[0], subject="user-1")).json()["id"]
    for key in (neighbour, cast.foreign_key):
        refused = cast.delete(f"feedback/{mine}", key=key)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")
    assert Rating.objects.usable().count() == 1
    assert cast.delete(f"feedback/{mine}", key=cast.manage_key).status_code == 200
    assert AuditEvent.objects.get(action="feedback.retracted").subject == f"rating:{mine}"
    for unknown in (uuid7(), "not-an-id", "..", f"{mine}/x"):
        assert cast.delete(f"feedback/{unknown}").status_code == 404
