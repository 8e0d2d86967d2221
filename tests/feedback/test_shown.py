"""A person judges only answers that they were shown; a program judges those of its project."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from django.test import Client

from feedback.models import Correction, Flag, Preference, Rating
from feedback.services.conversations import ask
from feedback.services.judge import Judge
from feedback.services.record import record_correction, record_flag, record_preference, record_rating
from inference.models import Completion, Prompt
from projects.errors import NotFound
from projects.models import User
from tests.cast import Cast, error_of
from tests.feedback.judging import correction, flag, preference, rating

pytestmark = pytest.mark.django_db
KINDS = (Rating, Preference, Correction, Flag)


def talk_of(cast: Cast, owner: User) -> tuple[Prompt, list[Completion]]:
    """A question in a conversation of this person, with two answers."""
    prompt = ask(project=cast.project, owner=owner, text=f"What does {owner.username} like?")
    return prompt, [cast.answer(prompt, "Eggs."), cast.answer(prompt, "Rice.")]


def signed_in(user: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def nothing_was_recorded() -> bool:
    return not any(model.objects.exists() for model in KINDS)


@pytest.mark.parametrize("who", ["bob", "carol", "eve"])
@pytest.mark.parametrize("verb", ["rate", "correct", "flag"])
def test_an_answer_of_anothers_conversation_is_not_found(cast: Cast, who: str, verb: str):
    _, answers = talk_of(cast, cast.ada)
    said = {"value": "1", "text": "Better.", "reason": "spam"}
    address = f"/p/kitchen/answers/{answers[0].pk}/{verb}"
    assert signed_in(getattr(cast, who)).post(address, said).status_code == 404
    assert nothing_was_recorded()
    assert signed_in(cast.ada).post(address, said).status_code == 200
    assert not nothing_was_recorded()


def test_what_a_form_compares_are_answers_that_its_sender_was_shown(cast: Cast):
    """The address names a question of one's own; the answers in the form may be any."""
    mine, my_answers = talk_of(cast, cast.bob)
    _, hers = talk_of(cast, cast.ada)
    _, nobodys = cast.answered_prompt()
    bob = signed_in(cast.bob)

    def compare(sides: list[Completion]) -> int:
        form = {"left": sides[0].pk, "right": sides[1].pk, "verdict": "left"}
        return int(bob.post(f"/p/kitchen/questions/{mine.pk}/prefer", form).status_code)

    assert (compare(hers), compare(nobodys), compare([my_answers[0], hers[0]])) == (404, 404, 404)
    assert nothing_was_recorded()
    assert compare(my_answers) == 200
    assert Preference.objects.get().rater == cast.bob


@pytest.mark.parametrize("record", [
    lambda about, ids: record_rating(**about, completion_id=ids[0], value=1),
    lambda about, ids: record_preference(**about, candidates=ids, ranks=[1, 2]),
    lambda about, ids: record_correction(**about, completion_id=ids[0], text="Better."),
    lambda about, ids: record_flag(**about, completion_id=ids[0], reason="spam"),
])  # fmt: skip
def test_an_imported_answer_is_judged_where_it_was_asked_about(
    cast: Cast, record: Callable[[dict[str, object], list[UUID]], object]
):
    _, answers = cast.answered_prompt()
    ids = [one.pk for one in answers]
    about = {"project": cast.project, "judge": Judge(user=cast.bob), "source": "ui"}
    with pytest.raises(NotFound):
        record(about, ids)
    assert nothing_was_recorded()
    record({**about, "is_shown": True}, ids)
    assert not nothing_was_recorded()


def test_a_program_judges_all_of_its_project_and_nothing_else(cast: Cast):
    _, answers = talk_of(cast, cast.ada)
    bodies = [rating(answers[0]), preference(answers, [1, 2]), correction(answers[0]), flag(answers[0])]
    for body in bodies:
        assert error_of(cast.post("feedback", body, key=cast.foreign_key))["code"] == "not_found"
    assert nothing_was_recorded()
    assert [cast.post("feedback", body).status_code for body in bodies] == [201] * 4
