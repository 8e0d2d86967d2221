"""The managers' tasks: found, made in batches, withdrawn, asked of another rater, freed, and made gold."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.errors import LeaseLost
from feedback.models import Assignment, Preference, Rating, SampleRequest, Task
from feedback.services.answers import answer_task
from feedback.services.desk import NothingToAsk, make_tasks
from feedback.services.queue import claim_task, undo_last
from feedback.services.tasks import create_task
from inference.models import Prompt
from projects.models import AuditEvent
from projects.services import SYSTEM
from tests.cast import Cast

URL = "/p/kitchen/tasks/"


def ask(cast: Cast, text: str = "How long?", kind: str = "compare", **extra: Any) -> Task:
    prompt, answers = cast.answered_prompt(text)
    chosen = answers if kind == "compare" else answers[:1]
    return create_task(project=cast.project, kind=kind, prompt=prompt, completions=chosen, **extra)


def act(cast: Cast, task: Task, action: str, **fields: Any) -> str:
    """Do it, and what the page says then."""
    response = cast.client.post(f"{URL}{task.pk}/act", {"action": action, **fields}, follow=True)
    assert response.status_code == 200
    task.refresh_from_db()
    return response.content.decode()


@pytest.fixture
def manager(cast: Cast) -> Cast:
    cast.client.force_login(cast.ada)
    return cast


def test_managers_alone_see_their_own_projects_tasks(cast: Cast) -> None:
    task = ask(cast)
    for user, status in ((cast.bob, 404), (cast.carol, 404), (cast.eve, 404), (cast.ada, 200)):
        cast.client.force_login(user)
        assert cast.client.get(URL).status_code == status
        assert cast.client.get(f"{URL}{task.pk}/").status_code == status
        if status == 404:
            assert cast.client.post(f"{URL}{task.pk}/act", {"action": "withdraw"}).status_code == 404
            assert (
                cast.client.post(f"{URL}make", {"what": "batch", "kind": "rate", "count": "1"}).status_code
                == 404
            )
    cast.client.force_login(cast.eve)
    assert cast.client.get(f"/p/garden/tasks/{task.pk}/").status_code == 404
    task.refresh_from_db()
    assert task.is_open


def test_a_list_of_a_page_a_filter_and_the_rest(manager: Cast, django_assert_max_num_queries: Any) -> None:
    made = [ask(manager, f"Question {number}?") for number in range(52)]
    rated = ask(manager, "Rate this?", kind="rate")
    with django_assert_max_num_queries(25):
        page = manager.client.get(URL)
    assert [task.pk for task in page.context["tasks"]] == [rated.pk, *(one.pk for one in reversed(made[3:]))]
    rest = manager.client.get(URL, {"before": page.context["next"]})
    assert [task.pk for task in rest.context["tasks"]] == [one.pk for one in reversed(made[:3])]
    assert rest.context["next"] is None
    only = manager.client.get(URL, {"kind": "rate", "state": "waiting", "source": "answers"})
    assert [task.pk for task in only.context["tasks"]] == [rated.pk]
    assert list(manager.client.get(URL, {"state": "disputed"}).context["tasks"]) == []
    for wrong in ({"kind": "x"}, {"state": "x"}, {"source": "x"}, {"before": "../1"}):
        assert manager.client.get(URL, wrong).status_code == 422


def test_a_batch_asks_each_prompt_once(manager: Cast) -> None:
    wanted = [manager.answered_prompt(f"Question {number}?")[0] for number in range(3)]
    manager.answered_prompt("At the gate?", split="gate")
    manager.answered_prompt("Only one answer?", ["One."])
    manager.answered_prompt("Twice the same?", ["Same.", "Same."])
    Prompt.objects.filter(pk=wanted[0].pk).update(tags=["eggs"])
    url, body = f"{URL}make", {"what": "batch", "kind": "compare", "count": "10", "overlap": "3"}
    tagged = manager.client.post(url, {**body, "tag": "eggs"}, follow=True)
    assert "1 task waits" in tagged.content.decode()
    assert Task.objects.get().prompt == wanted[0]
    assert "2 tasks wait" in manager.client.post(url, body, follow=True).content.decode()
    assert {task.prompt for task in Task.objects.all()} == set(wanted)
    assert set(Task.objects.values_list("overlap", "source")) == {(3, "import")}
    assert "was not asked about yet" in manager.client.post(url, body, follow=True).content.decode()
    assert Task.objects.count() == 3
    with pytest.raises(NothingToAsk) as refused:
        make_tasks(project=manager.project, kind="compare", count=1, actor=SYSTEM)
    assert refused.value.code == "nothing_to_ask"
    assert AuditEvent.objects.filter(action="tasks.made").count() == 2
    for wrong in ({"count": "0"}, {"count": "1e9"}, {"kind": "review"}, {"overlap": "51"}):
        manager.client.post(url, {**body, **wrong})
    assert Task.objects.count() == 3


def test_withdrawn_is_withdrawn_whatever_its_raters_do_then(manager: Cast) -> None:
    task = ask(manager, overlap=3)
    first = claim_task(project=manager.project, rater=manager.bob)
    assert first is not None
    answer_task(assignment=first, answer={"verdict": "left"})
    held = claim_task(project=manager.project, rater=manager.carol)
    assert held is not None
    assert "Withdrawn" in act(manager, task, "withdraw")
    assert (task.is_open, task.held, task.done) == (False, 0, 1)
    with pytest.raises(LeaseLost):
        answer_task(assignment=held, answer={"verdict": "left"})
    assert Preference.objects.usable().count() == 1
    assert claim_task(project=manager.project, rater=manager.carol) is None
    undo_last(project=manager.project, rater=manager.bob)
    answer_task(assignment=first, answer={"verdict": "right"})
    task.refresh_from_db()
    assert (task.is_open, task.done) == (False, 1)


def test_one_more_rater_is_asked_before_the_rest(manager: Cast) -> None:
    task = ask(manager)
    [ask(manager, f"Question {number}?") for number in range(3)]
    while (mine := claim_task(project=manager.project, rater=manager.bob)) is not None:
        answer_task(assignment=mine, answer={"verdict": "left"})
    task.refresh_from_db()
    assert not task.is_open
    assert "One more rater" in act(manager, task, "another")
    asked = claim_task(project=manager.project, rater=manager.carol)
    assert asked is not None
    assert asked.task_id == task.pk
    answer_task(assignment=asked, answer={"verdict": "left"})
    task.refresh_from_db()
    assert (task.overlap, task.done, task.is_open) == (2, 2, False)


def test_a_held_place_is_freed_and_a_late_answer_counts_while_it_is(manager: Cast) -> None:
    task = ask(manager)
    held = claim_task(project=manager.project, rater=manager.bob)
    assert held is not None
    assert claim_task(project=manager.project, rater=manager.carol) is None
    assert "1 place is free" in act(manager, task, "release")
    assert Assignment.objects.get().state == Assignment.State.LAPSED
    other = claim_task(project=manager.project, rater=manager.carol)
    assert other is not None
    with pytest.raises(LeaseLost):
        answer_task(assignment=held, answer={"verdict": "left"})
    answer_task(assignment=other, answer={"verdict": "left"})
    task.refresh_from_db()
    assert (task.done, task.held) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "fields", "gold", "right"),
    [
        ("compare", {"all_bad": "on"}, {"best": [], "all_bad": True}, {"all_bad": True}),
        ("rate", {"value-thumbs": ["1"]}, {"ratings": {"thumbs": [1]}}, {"ratings": {"thumbs": 1}}),
        (
            "correct",
            {"contains": " six \n\nminutes\n"},
            {"contains": ["six", "minutes"]},
            {"text": "Six minutes."},
        ),
    ],
)
def test_a_task_becomes_gold(
    manager: Cast, kind: str, fields: dict[str, Any], gold: dict[str, Any], right: dict[str, Any]
) -> None:
    task = ask(manager, kind=kind)
    act(manager, task, "gold", **fields)
    assert task.gold == gold
    manager.project.workbench.gold_share = 1.0
    manager.project.workbench.save()
    mine = claim_task(project=manager.project, rater=manager.bob)
    assert mine is not None
    answer_task(assignment=mine, answer=right)
    page = manager.client.get(URL, {"state": "gold"}).content.decode()
    assert "1 of 1 right" in page
    act(manager, task, "withdraw")
    assert claim_task(project=manager.project, rater=manager.carol) is None


def test_gold_is_changed_and_made_ordinary_and_its_raters_are_judged_by_what_is_known(manager: Cast) -> None:
    task = ask(manager, kind="rate")
    act(manager, task, "gold", **{"value-thumbs": ["1"]})
    manager.project.workbench.gold_share = 1.0
    manager.project.workbench.save()
    for rater, value in ((manager.bob, 1), (manager.carol, -1)):
        mine = claim_task(project=manager.project, rater=rater)
        assert mine is not None
        answer_task(assignment=mine, answer={"ratings": {"thumbs": value}})
    marks = Assignment.objects.filter(task=task).order_by("id").values_list("is_correct", flat=True)
    assert list(marks) == [True, False]
    act(manager, task, "gold", **{"value-thumbs": ["-1"]})  # the key was wrong
    assert list(marks.all()) == [False, True]
    assert "an ordinary question now" in act(manager, task, "ordinary")
    assert (task.gold, task.source, task.done, task.is_open) == (None, Task.Source.ANSWERS, 2, False)
    assert list(marks.all()) == [None, None]
    assert Rating.objects.usable().count() == 2
    assert "ordinary question already" in act(manager, task, "ordinary")
    act(manager, task, "another")
    mine = claim_task(project=manager.project, rater=manager.ada)
    assert mine is not None
    assert mine.task_id == task.pk


@pytest.mark.parametrize("value", ["good", "1.5", "", "²", "9" * 30])
def test_a_number_that_is_none_is_refused_in_a_sentence(manager: Cast, value: str) -> None:
    task = ask(manager, kind="rate")
    assert "must be a number" in act(manager, task, "gold", **{"value-thumbs": value})
    assert task.gold is None
    wanted = {"what": "samples", "version": value, "samples": "2", "count": "5"}
    page = manager.client.post(f"{URL}make", wanted, follow=True)
    assert "must be a number" in page.content.decode()
    assert not SampleRequest.objects.exists()


def test_what_raters_have_answered_does_not_become_gold(manager: Cast) -> None:
    task = ask(manager, overlap=2)
    mine = claim_task(project=manager.project, rater=manager.bob)
    assert mine is not None
    answer_task(assignment=mine, answer={"verdict": "left"})
    assert "their answers count" in act(manager, task, "gold", all_bad="on")
    assert task.gold is None


def test_a_gold_question_out_of_three_texts(manager: Cast) -> None:
    body = {"what": "gold", "question": "Two and two?", "best": "Four.", "worse": "Five."}
    for wrong in ({"best": " \u200b"}, {"worse": "Four."}, {"question": ""}):
        manager.client.post(f"{URL}make", {**body, **wrong})
    assert not Task.objects.exists()
    manager.client.post(f"{URL}make", body)
    task = Task.objects.get()
    best = task.completions.get(text="Four.")
    assert task.gold == {"best": [str(best.pk)], "all_bad": False}
    assert task.source == Task.Source.GOLD


def test_versions_answer_prompts_until_they_are_stopped(manager: Cast) -> None:
    prompt = manager.prompt("How long?")
    url, body = f"{URL}make", {"what": "samples", "version": ["1"], "samples": "1", "count": "5"}
    assert "needs two to 8 answers" in manager.client.post(url, body, follow=True).content.decode()
    assert not SampleRequest.objects.exists()
    assert (
        "1 prompt is being"
        in manager.client.post(url, {**body, "samples": "2"}, follow=True).content.decode()
    )
    asked = SampleRequest.objects.get()
    assert (asked.versions, asked.samples, asked.prompts) == ([1], 2, 1)
    assert not prompt.completions.exists()  # the schedule has them made
    stop = {"what": "cancel", "request": str(asked.pk)}
    assert "No more answers" in manager.client.post(url, stop, follow=True).content.decode()
    asked.refresh_from_db()
    assert asked.status == SampleRequest.Status.CANCELLED
    assert manager.client.post(url, {"what": "everything"}).status_code == 422
