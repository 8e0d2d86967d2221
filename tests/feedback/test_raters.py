"""How far raters are trusted: qualification, what is measured, events as of a cut-off, and agreement."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from feedback import tasks
from feedback.models import Agreement, Assignment, RaterEvent, Standing, Task
from feedback.services.agreement import alpha_with_interval, measure_agreement
from feedback.services.answers import answer_task
from feedback.services.quality import measure_raters
from feedback.services.queue import claim_task, queue_state
from feedback.services.raters import (
    excluded_raters,
    quarantine_rater,
    rater_weights,
    restore_rater,
    set_weight,
)
from feedback.services.standings import standing_of
from feedback.services.tasks import create_task
from feedback.services.workbench import update_workbench
from inference.models import Version
from projects.errors import Conflict, Invalid
from projects.ids import uuid7
from projects.models import AuditEvent, User
from projects.services import SYSTEM, Actor
from tests.cast import Cast


def ask(cast: Cast, kind: str = "rate", count: int = 1, **more: Any) -> Task:
    versions = more.pop("versions", ())
    prompt, answers = cast.answered_prompt(
        f"Question {uuid7()}?", [f"Answer {n}." for n in range(count)], versions=versions
    )
    return create_task(project=cast.project, kind=kind, prompt=prompt, completions=answers, **more)


def settings(cast: Cast, **changes: Any) -> None:
    update_workbench(project=cast.project, actor=SYSTEM, **changes)


def answer(cast: Cast, rater: User, said: dict[str, Any], seconds: float = 5.0) -> Assignment:
    question = claim_task(project=cast.project, rater=rater)
    assert question is not None
    answer_task(assignment=question, answer=said, seconds_spent=seconds)
    return question


def standing(cast: Cast, rater: User) -> Standing:
    return standing_of(cast.project, rater)


# --- qualification ---------------------------------------------------------------------------------------
def test_a_rater_qualifies_when_enough_of_the_latest_gold_is_right(cast: Cast):
    settings(cast, qualification_tasks=3, qualification_accuracy=0.6)
    real = ask(cast)
    for _ in range(5):
        ask(cast, gold={"ratings": {"thumbs": [1]}})
    for value in (-1, -1, 1):
        assert answer(cast, cast.bob, {"ratings": {"thumbs": value}}).task != real
    bob = standing(cast, cast.bob)
    assert (bob.status, bob.reason) == (
        "new",
        "1 of the last 3 gold answers were right; 60% are asked for.",
    )
    assert queue_state(project=cast.project, rater=cast.bob).qualification_left == 1
    answer(cast, cast.bob, {"ratings": {"thumbs": 1}})
    assert standing(cast, cast.bob).status == "qualified"
    assert answer(cast, cast.bob, {"ratings": {"thumbs": 1}}).task == real
    kinds = RaterEvent.objects.filter(rater=cast.bob).order_by("created").values_list("kind", flat=True)
    assert list(kinds) == ["failed", "qualified"]


# --- events ----------------------------------------------------------------------------------------------
def test_quarantine_is_read_as_of_a_cut_off_and_can_be_undone(cast: Cast):
    ada = Actor(user=cast.ada)
    ask(cast)
    before = timezone.now()
    quarantine_rater(project=cast.project, rater=cast.bob, actor=ada, reason="Answers at random.")
    during = timezone.now()
    assert claim_task(project=cast.project, rater=cast.bob) is None
    assert queue_state(project=cast.project, rater=cast.bob).reason == "quarantined"
    assert claim_task(project=cast.project, rater=cast.carol) is not None
    with pytest.raises(Conflict) as refused:
        quarantine_rater(project=cast.project, rater=cast.bob, actor=ada, reason="Again.")
    assert refused.value.code == "already_there"
    restore_rater(project=cast.project, rater=cast.bob, actor=ada, reason="It was his cat.")
    after = timezone.now()
    bob = f"user:{cast.bob.pk}"
    found = [excluded_raters(cast.project, moment) for moment in (before, during, after)]
    assert found == [{}, {bob: "Answers at random."}, {}]
    assert excluded_raters(cast.garden, during) == {}
    assert AuditEvent.objects.filter(action__startswith="rater.").count() == 2


def test_weights_are_dated_too(cast: Cast):
    bob, moments = f"user:{cast.bob.pk}", [timezone.now()]
    for weight in (0.5, 0.25):
        set_weight(project=cast.project, rater=cast.bob, weight=weight, actor=SYSTEM, reason="Gold.")
        moments.append(timezone.now())
    found = [rater_weights(cast.project, moment) for moment in moments]
    assert found == [{}, {bob: 0.5}, {bob: 0.25}]
    for weight in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(Invalid):
            set_weight(project=cast.project, rater=cast.bob, weight=weight, actor=SYSTEM, reason="No.")
    with pytest.raises(Invalid):
        set_weight(project=cast.project, rater=cast.bob, weight=1, actor=SYSTEM, reason=" ")


# --- what is measured ------------------------------------------------------------------------------------
def test_bias_haste_and_wrong_gold_are_measured_and_the_rater_is_watched(cast: Cast):
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", digest="sha256:2")
    settings(cast, overlap=2)
    for _ in range(24):
        ask(cast, "compare", 2, versions=[cast.v1, v2])
    for _ in range(24):
        answer(cast, cast.bob, {"verdict": "left"}, seconds=0.4)
        question = claim_task(project=cast.project, rater=cast.carol)
        assert question is not None
        newest = "left" if question.task.completions.get(pk=question.shown[0]).version == v2 else "right"
        answer_task(assignment=question, answer={"verdict": newest}, seconds_spent=9)
    assert measure_raters(project=cast.project) == 2
    assert measure_raters(project=cast.project) == 0, "nobody answered since"
    bob, carol = standing(cast, cast.bob), standing(cast, cast.carol)
    assert bob.numbers["left"]["left"] == bob.numbers["left"]["n"] == 24
    assert bob.numbers["left"]["p"] < 1e-6
    assert bob.numbers["fast"] == {"n": 24, "fast": 24, "share": 1.0}
    assert carol.numbers["newest"]["newest"] == 24
    assert carol.numbers["fast"]["fast"] == 0
    shared = bob.numbers["agreement"]
    assert shared == carol.numbers["agreement"] and shared["n"] == 24
    assert bob.status == "watched"
    assert "The left answer was chosen in 24 of 24 comparisons." in bob.reason
    assert "24 of 24 answers took less than 1.5 seconds." in bob.reason
    restore_rater(project=cast.project, rater=cast.bob, actor=SYSTEM, reason="He was told.")
    ask(cast, "compare", 2)
    answer(cast, cast.bob, {"verdict": "left"})
    assert measure_raters(project=cast.project) == 1
    assert standing(cast, cast.bob).numbers["judged"] == 1, "old evidence is not held against him twice"
    assert standing(cast, cast.bob).status == "qualified"


def test_gold_accuracy_has_an_interval(cast: Cast):
    settings(cast, gold_share=1.0)
    for _ in range(12):
        ask(cast, gold={"ratings": {"thumbs": [1]}})
    for number in range(12):
        answer(cast, cast.bob, {"ratings": {"thumbs": 1 if number < 3 else -1}})
    measure_raters(project=cast.project)
    bob = standing(cast, cast.bob)
    gold = bob.numbers["gold"]
    assert (gold["n"], gold["right"], gold["accuracy"]) == (12, 3, 0.25)
    assert gold["low"] == pytest.approx(0.089, abs=0.001) and gold["high"] == pytest.approx(0.532, abs=0.001)
    assert bob.status == "watched" and bob.reason.startswith("3 of 12 gold answers were right")


def test_agreement_of_a_project_by_kind_and_aspect(cast: Cast):
    settings(cast, overlap=2)
    for number in range(12):
        ask(cast)
        for rater in (cast.bob, cast.carol):
            answer(cast, rater, {"ratings": {"thumbs": 1 if number % 2 else -1}})
    measure_agreement(project=cast.project)
    rate, compare = Agreement.objects.get(kind="rate"), Agreement.objects.get(kind="compare")
    assert (rate.alpha, rate.low, rate.high) == (1.0, 1.0, 1.0)
    assert (rate.units, rate.raters, rate.judgements) == (12, 2, 24)
    assert (compare.alpha, compare.units) == (None, 0)
    quarantine_rater(project=cast.project, rater=cast.bob, actor=SYSTEM, reason="Test.")
    measure_agreement(project=cast.project)
    assert Agreement.objects.get(kind="rate").alpha is None


def test_alpha_of_a_published_example():
    """Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: 0.743 nominal."""
    table = [
        (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
        (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
    ]
    judged = [
        (unit, f"rater {rater}", value)
        for rater, row in enumerate(table)
        for unit, value in enumerate(row)
        if value is not None
    ]
    alpha, low, high, units = alpha_with_interval(judged, "nominal")
    assert alpha == pytest.approx(0.743, abs=0.001)
    assert alpha is not None and low is not None and high is not None and low < alpha < high
    assert units == 11
    interval, *_ = alpha_with_interval(judged, "interval")
    assert interval == pytest.approx(0.849, abs=0.001)


def test_the_schedule_fills_the_line_and_measures(cast: Cast):
    cast.answered_prompt()
    tasks.fill_lines()
    assert Task.objects.in_line().count() == 1
    answer(cast, cast.bob, {"verdict": "tie"})
    tasks.measure_raters()
    assert standing(cast, cast.bob).measured is not None
    assert standing(cast, cast.bob).measured > timezone.now() - timedelta(minutes=1)  # type: ignore[operator]  # asserted above
