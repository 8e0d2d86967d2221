"""Where tasks come from, and which is asked next: live traffic with its opt-outs, and the strategies."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.models import Task, Workbench
from feedback.services.answers import answer_task
from feedback.services.draw import draw_tasks, random_sample, set_uncertainty, shares
from feedback.services.queue import claim_task
from feedback.services.sources import opt_out_conversation, sweep_answers
from feedback.services.tasks import create_task
from feedback.services.workbench import opt_in, opt_out, update_workbench
from inference.models import Completion, Conversation
from projects.errors import Invalid
from projects.ids import uuid7
from projects.services import SYSTEM
from tests.cast import Cast


def settings(cast: Cast, **changes: Any) -> None:
    update_workbench(project=cast.project, actor=SYSTEM, **changes)


def live(cast: Cast, text: str = "An answer.", **fields: Any) -> Completion:
    """An answer that a program was given."""
    made = cast.answer(
        cast.prompt(f"Question {uuid7()}?", conversation=fields.pop("conversation", None)), text
    )
    Completion.objects.filter(pk=made.pk).update(**{"api_key": cast.api_key, **fields})
    return made


def sampled(cast: Cast) -> set[Any]:
    sweep_answers(project=cast.project)
    tasks = Task.objects.filter(project=cast.project, source="live", is_open=True)
    return set(tasks.values_list("completions", flat=True))


# --- live traffic ----------------------------------------------------------------------------------------
def test_a_share_of_live_answers_is_put_to_raters_once(cast: Cast):
    made = [live(cast) for _ in range(40)]
    assert sampled(cast) == set()
    settings(cast, live_share=0.5)
    found = sampled(cast)
    assert 8 < len(found) < 32
    assert sampled(cast) == found, "a second sweep finds nothing new"
    settings(cast, live_share=1.0)
    assert sampled(cast) == {one.pk for one in made}
    assert set(Task.objects.values_list("kind", flat=True)) == {"rate"}


def test_who_opted_out_is_not_sampled(cast: Cast):
    settings(cast, live_share=1.0)
    opt_out(project=cast.project, subject="anna")
    live(cast, opted_out=True)
    live(cast, subject="anna")
    live(cast, quarantined=True)
    live(cast, api_key=None)  # an evaluation's answer, or a battle's
    assert sampled(cast) == set()
    berta = live(cast, subject="berta")
    assert sampled(cast) == {berta.pk}
    opt_out(project=cast.project, subject="berta")
    assert sampled(cast) == set(), "what waits for raters is closed"
    opt_in(project=cast.project, subject="anna")
    anna = live(cast, subject="anna")
    assert sampled(cast) == {anna.pk}


def test_chats_are_sampled_only_where_the_project_says_so_and_their_owner_does_not_mind(cast: Cast):
    settings(cast, live_share=1.0)
    chat = Conversation.objects.create(project=cast.project, owner=cast.ada)
    live(cast, conversation=chat, api_key=None)
    assert sampled(cast) == set()
    settings(cast, samples_conversations=True)
    private = Conversation.objects.create(project=cast.project, owner=cast.ada)
    opt_out_conversation(conversation=private, opted_out=True)
    live(cast, conversation=private, api_key=None)
    shared = live(cast, conversation=chat, api_key=None)
    assert shared.pk in sampled(cast)
    assert not Task.objects.filter(prompt__conversation=private).exists()
    question = claim_task(project=cast.project, rater=cast.bob)
    assert question is not None and question.task.prompt.conversation == chat
    answer_task(assignment=question, answer={"ratings": {"thumbs": 1}})  # he was shown it, so he may judge it
    opt_out_conversation(conversation=chat, opted_out=True)
    assert sampled(cast) == set()


# --- strategies ------------------------------------------------------------------------------------------
def tasks(cast: Cast, count: int) -> list[Task]:
    made = []
    for _ in range(count):
        prompt, answers = cast.answered_prompt(f"Question {uuid7()}?", ["One."])
        made.append(create_task(project=cast.project, kind="rate", prompt=prompt, completions=answers))
    return made


def line(cast: Cast) -> list[Task]:
    draw_tasks(project=cast.project, kinds=["rate"])
    return list(Task.objects.in_line().filter(project=cast.project))


def test_shares_keep_a_random_slice():
    assert shares({"random": 1}, 0.1) == {"random": 1.0}
    assert shares({"uncertain": 3, "newest": 1}, 0.2) == pytest.approx(
        {"random": 0.2, "uncertain": 0.6, "newest": 0.2}
    )
    assert shares({"random": 1, "newest": 1}, 0.1) == pytest.approx({"random": 0.5, "newest": 0.5})
    assert shares({"disagreement": 1}, 0.1) == {"random": 1.0}


def test_strategies_draw_their_own_and_say_so(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("feedback.services.draw.WINDOW", 10)
    made = tasks(cast, 30)
    settings(cast, weights={"uncertain": 1, "newest": 1}, random_share=0.2)
    least_known = made[3:7]
    assert set_uncertainty(project=cast.project, scores={one.pk: 0.9 for one in least_known}) == 4
    drawn = line(cast)
    by_strategy = {
        name: {one.pk for one in drawn if one.strategy == name} for name in ("random", "uncertain", "newest")
    }
    assert {name: len(found) for name, found in by_strategy.items()} == {
        "random": 2,
        "uncertain": 4,
        "newest": 4,
    }
    lots = sorted(made, key=lambda one: one.chance)
    assert by_strategy["random"] == {one.pk for one in lots[:2]}
    assert {one.probability for one in drawn if one.strategy == "random"} == {lots[2].chance}
    assert (
        by_strategy["uncertain"] == {one.pk for one in least_known} - by_strategy["random"]
        or len(by_strategy["uncertain"] & {one.pk for one in least_known}) >= 2
    )
    assert by_strategy["newest"] <= {one.pk for one in made[-6:]}
    assert {one.probability for one in drawn if one.strategy != "random"} == {None}
    assert by_strategy["random"] <= set(random_sample(cast.project, "rate").values_list("pk", flat=True))
    assert line(cast) == drawn, "a full line is left alone"


def test_a_random_sample_is_unbiased_whatever_else_is_drawn(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    """The newest half is drawn first by another strategy; the sample still holds both halves alike."""
    monkeypatch.setattr("feedback.services.draw.WINDOW", 60)
    made = tasks(cast, 80)
    settings(cast, weights={"newest": 1}, random_share=0.5)
    line(cast)
    sample = set(random_sample(cast.project, "rate").values_list("pk", flat=True))
    reached = Task.objects.filter(strategy="random").order_by("-chance").first()
    assert reached is not None
    drawn = {one.pk for one in Task.objects.filter(place__isnull=False)}
    assert sample == {one.pk for one in made if one.pk in drawn and one.chance < (reached.probability or 0)}
    assert {one.pk for one in made if one.chance <= reached.chance} <= sample


def test_disagreement_asks_one_more_rater(cast: Cast):
    settings(cast, weights={"random": 1, "disagreement": 1}, overlap=2)
    [task] = tasks(cast, 1)
    for rater, value in ((cast.bob, 1), (cast.ada, -1)):
        question = claim_task(project=cast.project, rater=rater)
        assert question is not None
        answer_task(assignment=question, answer={"ratings": {"thumbs": value}})
    question = claim_task(project=cast.project, rater=cast.carol)
    assert question is not None and question.task == task
    assert (question.task.strategy, question.task.overlap) == ("disagreement", 3)
    for weights in (
        {},
        {"random": 0},
        {"luck": 1},
        {"random": -1},
        {"random": True},
        {"random": float("nan")},
    ):
        with pytest.raises(Invalid):
            settings(cast, weights=weights)
    assert Workbench.objects.get().weights == {"random": 1, "disagreement": 1}
