"""Raters flag what a question shows them; reviewers see what was set aside, and release it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from feedback.models import Assignment, Flag, SetAside, Task
from feedback.services.conversations import ask
from feedback.services.judge import Judge
from feedback.services.queue import claim_task
from feedback.services.record import record_flag
from feedback.services.tasks import create_compare_task
from inference.models import Completion
from projects.ids import uuid7
from projects.models import User
from tests.cast import Cast

pytestmark = pytest.mark.django_db
PAGE = "/p/kitchen/set-aside/"
PARTIAL = {"X-Partial": "work"}


@pytest.fixture
def answers(cast: Cast) -> list[Completion]:
    """Of two questions that wait, two each: those of the first."""
    made = []
    for text in ("How do I boil an egg?", "And rice?"):
        prompt, answered = cast.answered_prompt(text)
        create_compare_task(project=cast.project, prompt=prompt, completions=answered)
        made += answered
    return made[:2]


def signed_in(user: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def claimed(cast: Cast, rater: User, about: Completion) -> Assignment:
    """Their place at the question about this answer, whatever else comes first."""
    others: list[UUID] = []
    while found := claim_task(project=cast.project, rater=rater, besides=others):
        if str(about.pk) in found.shown:
            return found
        others.append(found.pk)
    raise AssertionError("it is not asked")


def flag_it(cast: Cast, held: Assignment, answer: Completion, reason: str = "spam", **more: Any) -> Any:
    form = {"flag": f"{answer.pk}:{reason}", **more}
    return signed_in(held.rater).post(f"/p/kitchen/work/{held.pk}/flag", form, headers=PARTIAL)


def test_a_rater_flags_what_the_question_shows_and_goes_on(cast: Cast, answers: list[Completion]):
    held = claimed(cast, cast.bob, answers[0])
    page = signed_in(cast.bob).get("/p/kitchen/work/").content.decode()
    assert page.count('data-flag-as="') == 2 * len(Flag.Reason.values)
    client_id = str(uuid7())
    for _ in range(2):  # a submission that was sent again
        response = flag_it(cast, held, answers[0], id=client_id)
        assert response.status_code == 200
        assert "And rice?" in response.content.decode()
    row = Flag.objects.get()
    assert (str(row.pk), row.rater, row.reason, row.source) == (client_id, cast.bob, "spam", "ui")
    held.refresh_from_db()
    assert (held.state, held.skip_reason) == ("skipped", "flagged: spam")
    assert Task.objects.get(pk=held.task_id).held == 0

    response = signed_in(cast.bob).post("/p/kitchen/work/undo", headers=PARTIAL)
    assert "How do I boil" in response.content.decode()
    row.refresh_from_db()
    assert row.retracted is not None


def test_nothing_else_can_be_flagged_there(cast: Cast, answers: list[Completion]):
    _, others = cast.answered_prompt("Not asked?")
    held = claimed(cast, cast.bob, answers[0])
    assert flag_it(cast, held, others[0]).status_code == 404
    assert flag_it(cast, held, answers[0], "ugly").status_code == 422
    assert flag_it(cast, held, answers[0], "").status_code == 422
    place = f"/p/kitchen/work/{held.pk}/flag"
    assert signed_in(cast.bob).post(place, {"flag": "nonsense"}).status_code == 422
    assert signed_in(cast.carol).post(place, {"flag": f"{answers[0].pk}:spam"}).status_code == 404
    assert signed_in(cast.eve).post(place, {"flag": f"{answers[0].pk}:spam"}).status_code == 404
    assert signed_in(cast.bob).get(place).status_code == 405
    assert not Flag.objects.exists()
    held.refresh_from_db()
    assert held.state == "leased"


def test_a_reviewers_flag_is_undone_with_its_question(cast: Cast, answers: list[Completion]):
    held = claimed(cast, cast.carol, answers[0])
    assert flag_it(cast, held, answers[0]).status_code == 200
    assert SetAside.objects.standing().exists() and not Task.objects.get(pk=held.task_id).is_open
    assert signed_in(cast.carol).post("/p/kitchen/work/undo", headers=PARTIAL).status_code == 200
    assert not SetAside.objects.standing().exists()
    held.refresh_from_db()
    task = Task.objects.get(pk=held.task_id)
    assert (held.state, task.is_open, task.held) == ("leased", True, 1)


def test_reviewers_see_what_is_set_aside_and_release_it(cast: Cast, answers: list[Completion]):
    assert "Nothing is set aside" in signed_in(cast.carol).get(PAGE).content.decode()
    for user in (cast.bob, cast.eve):
        assert signed_in(user).get(PAGE).status_code == 404
        assert signed_in(user).post(f"{PAGE}{answers[0].pk}/release").status_code == 404
    record_flag(
        project=cast.project, judge=Judge(user=cast.carol), completion_id=answers[0].pk, reason="unsafe",
        comment="Do <b>not</b> teach this.", source="ui", is_shown=True,
    )  # fmt: skip
    page = signed_in(cast.carol).get(PAGE).content.decode()
    assert "Eight minutes in boiling water." in page and "Unsafe" in page
    assert "Do &lt;b&gt;not&lt;/b&gt; teach this." in page
    where = f"{PAGE}{answers[0].pk}/release"
    assert "in use again" in signed_in(cast.ada).post(where, follow=True).content.decode()
    page = signed_in(cast.carol).get(PAGE).content.decode()
    assert "released by ada" in page and "Release: use it again" not in page
    assert "already" in signed_in(cast.ada).post(where, follow=True).content.decode()
    assert SetAside.objects.get().released_by == cast.ada
    assert signed_in(cast.ada).get(PAGE, {"before": "../1"}).status_code == 422


def test_an_answer_of_a_conversation_is_its_owners_and_says_that_it_is_set_aside(cast: Cast):
    prompt = ask(project=cast.project, owner=cast.carol, text="My secret?")
    answer = cast.answer(prompt, "It is told to nobody.")
    carol = signed_in(cast.carol)
    place = f"/p/kitchen/answers/{answer.pk}/"
    said = carol.post(f"{place}flag", {"reason": "private"}).content.decode()
    assert "is set aside" in said and 'aria-label="Thumb up"' not in said
    assert "It is told to nobody." in carol.get(PAGE).content.decode()
    page = signed_in(cast.ada).get(PAGE).content.decode()
    assert "secret" not in page and "told to nobody" not in page and "own conversation" in page
    said = carol.post(f"/p/kitchen/judgements/{Flag.objects.get().pk}/retract").content.decode()
    assert "is set aside" not in said and 'aria-label="Thumb up"' in said


def test_a_page_of_many_takes_as_many_queries(cast: Cast, django_assert_max_num_queries: Any):
    for number in range(52):
        _, (answer, _) = cast.answered_prompt(f"Question {number}?")
        Flag.objects.create(
            project=cast.project, completion=answer, rater=cast.bob, judge=f"user:{cast.bob.pk}",
            reason="spam", source="ui", body_digest="0" * 64,
        )  # fmt: skip
        SetAside.objects.create(project=cast.project, completion=answer)
    carol = signed_in(cast.carol)
    with django_assert_max_num_queries(25):
        page = carol.get(PAGE)
    assert len(page.context["rows"]) == 50
    rest = carol.get(PAGE, {"before": page.context["next"]})
    assert (len(rest.context["rows"]), rest.context["next"]) == (2, None)
