"""At the same time: the database's constraints decide who was first, and everybody gets the right answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, TypeVar

import pytest
from django.db import connection, connections
from django.test import Client

from feedback.models import Assignment, Candidate, Preference, Rating, Task
from feedback.services.answers import answer_task
from feedback.services.queue import claim_task
from feedback.services.tasks import create_compare_task
from inference.models import Completion, Prompt
from projects.ids import uuid7
from projects.models import User
from tests.cast import Cast
from tests.feedback.judging import preference, rating

pytestmark = pytest.mark.django_db(transaction=True)
Answer = TypeVar("Answer")
AT_ONCE = 4  # as many as PostgreSQL's pool has connections


def together(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """Start all calls at the same moment, each in a thread with its own connection."""
    start = Barrier(len(calls))

    def one(call: Callable[[], Answer]) -> Answer:
        try:
            start.wait(10)
            return call()
        finally:
            connections.close_all()

    connection.close()  # this thread needs none meanwhile
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(one, calls))


def post(cast: Cast, body: dict[str, Any], path: str = "/api/v1/feedback") -> Callable[[], Any]:
    client = Client(raise_request_exception=False, headers=cast.auth())
    return lambda: client.post(path, body, content_type="application/json")


def test_one_of_many_first_judgements_is_kept(cast: Cast):
    _, answers = cast.answered_prompt()
    for make in (
        lambda n: rating(answers[0], 1 if n % 2 else -1),
        lambda n: preference(answers if n % 2 else answers[::-1], [1, 2]),
    ):
        responses = together([post(cast, make(n)) for n in range(AT_ONCE)])
        assert Counter(one.status_code for one in responses) == {201: 1, 409: AT_ONCE - 1}
        [first] = [one.json()["id"] for one in responses if one.status_code == 201]
        assert {one.json()["error"]["id"] for one in responses if one.status_code == 409} == {first}
    assert (Rating.objects.count(), Preference.objects.count(), Candidate.objects.count()) == (1, 1, 2)


def test_a_request_that_was_sent_twice_is_one_judgement(cast: Cast):
    _, answers = cast.answered_prompt()
    for body in (rating(answers[0], id=str(uuid7())), preference(answers, [1, 2], id=str(uuid7()))):
        responses = together([post(cast, body) for _ in range(AT_ONCE)])
        assert Counter(one.status_code for one in responses) == {201: 1, 200: AT_ONCE - 1}
        assert len({one.content for one in responses}) == 1


def test_one_id_with_different_bodies_is_the_first_of_them(cast: Cast):
    for number in range(5):
        _, answers = cast.answered_prompt(f"Question {number}?")
        body = rating(answers[0], id=str(uuid7()))
        responses = together([post(cast, {**body, "subject": f"user-{n}"}) for n in range(AT_ONCE)])
        assert Counter(one.status_code for one in responses) == {201: 1, 422: AT_ONCE - 1}
        assert {one.json()["error"]["code"] for one in responses if one.status_code == 422} == {"id_reused"}


def test_a_replay_of_what_supersedes_is_no_second_judgement(cast: Cast):
    _, answers = cast.answered_prompt()
    first = cast.post("feedback", rating(answers[0])).json()["id"]
    body = rating(answers[0], -1, supersedes=first, id=str(uuid7()))
    responses = together([post(cast, body) for _ in range(AT_ONCE)])
    assert Counter(one.status_code for one in responses) == {201: 1, 200: AT_ONCE - 1}


def test_only_one_can_supersede(cast: Cast):
    _, answers = cast.answered_prompt()
    first = cast.post("feedback", rating(answers[0])).json()["id"]
    responses = together([post(cast, rating(answers[0], -1, supersedes=first)) for _ in range(AT_ONCE)])
    assert Counter(one.status_code for one in responses) == {201: 1, 409: AT_ONCE - 1}
    assert {one.json()["error"]["code"] for one in responses if one.status_code == 409} == {"not_standing"}
    assert Rating.objects.usable().count() == 1


def test_prompts_sent_at_the_same_time_are_recorded_once(cast: Cast):
    lines = b"\n".join(b'{"messages": [{"role": "user", "content": "Question %d"}]}' % n for n in range(30))

    def send() -> dict[str, int]:
        client = Client(raise_request_exception=False, headers=cast.auth())
        answer = client.post("/api/v1/prompts", lines, content_type="application/x-ndjson")
        assert answer.status_code == 200, answer.content
        return dict(answer.json())

    counts = together([send] * AT_ONCE)
    assert sum(one["created"] for one in counts) == Prompt.objects.count() == 30
    assert all(one["created"] + one["existing"] == 30 for one in counts)


def raters(cast: Cast, count: int) -> list[User]:
    return [User.objects.create_user(f"rater-{number}") for number in range(count)]


@pytest.mark.parametrize("overlap", [1, 2])
def test_raters_who_claim_together_never_exceed_the_overlap(cast: Cast, overlap: int):
    people = raters(cast, AT_ONCE)
    for number in range(2):
        prompt, answers = cast.answered_prompt(f"Question {number}?")
        create_compare_task(project=cast.project, prompt=prompt, completions=answers, overlap=overlap)
    claims = together([partial(claim_task, project=cast.project, rater=who) for who in people])
    taken = Counter(claim.task_id for claim in claims if claim is not None)
    assert sum(taken.values()) == min(AT_ONCE, 2 * overlap)
    assert max(taken.values()) <= overlap
    together(
        [partial(answer_task, assignment=claim, answer={"verdict": "left"}) for claim in claims if claim]
    )
    for task in Task.objects.all():
        assert task.done == task.assignments.filter(state=Assignment.State.DONE).count() <= overlap
        assert task.is_open == (task.done < overlap)


def test_raters_who_ask_together_for_new_questions_get_different_ones(cast: Cast):
    people = raters(cast, AT_ONCE)
    for number in range(AT_ONCE):
        cast.answered_prompt(f"Question {number}?")
    claims = together([partial(claim_task, project=cast.project, rater=who) for who in people])
    assert None not in claims
    assert len({claim.task_id for claim in claims if claim}) == AT_ONCE == Task.objects.count()


def test_one_rater_in_two_windows_has_one_question(cast: Cast):
    for number in range(AT_ONCE):
        prompt, answers = cast.answered_prompt(f"Question {number}?")
        create_compare_task(project=cast.project, prompt=prompt, completions=answers)
    claims = together([lambda: claim_task(project=cast.project, rater=cast.bob)] * AT_ONCE)
    assert None not in claims
    assert len({claim.pk for claim in claims if claim}) == 1 == Assignment.objects.count()


def test_a_button_pressed_twice_is_one_answer(cast: Cast):
    cast.answered_prompt()
    claim = claim_task(project=cast.project, rater=cast.bob)
    assert claim is not None

    def press() -> Any:
        mine = Assignment.objects.select_related("rater").get(pk=claim.pk)
        return answer_task(assignment=mine, answer={"verdict": "tie"})[0].pk

    assert len(set(together([press] * AT_ONCE))) == 1
    assert Preference.objects.count() == 1
    assert Task.objects.get().done == 1
    assert Completion.objects.count() == 2
