"""Managers see how far raters are trusted and decide; settings, guidelines and form are saved by edition."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from feedback.models import Standing
from feedback.services.raters import excluded_raters
from feedback.services.standings import standing_of
from feedback.services.workbench import workbench_of
from projects.errors import Conflict
from projects.models import Edition, Project
from projects.services import Actor, update_project
from tests.cast import Cast

RATERS = "/p/kitchen/raters/"
BENCH = "/p/kitchen/workbench/"


@pytest.fixture
def ada(cast: Cast) -> Client:
    client = Client()
    client.force_login(cast.ada)
    return client


def test_the_page_shows_what_was_measured(cast: Cast, ada: Client) -> None:
    standing = standing_of(cast.project, cast.bob)
    standing.numbers = {
        "judged": 40, "seconds_median": 4.2, "remarks": ["The left answer wins too often."],
        "gold": {"n": 10, "right": 9, "accuracy": 0.9, "low": 0.6, "high": 0.98},
        "left": {"n": 30, "left": 28, "share": 0.93, "p": 0.0001}, "agreement": {"n": 12, "share": 0.75},
        "newest": {"n": 0, "newest": 0, "share": None, "others": None, "p": None},
        "fast": {"n": 40, "fast": 1, "share": 0.025},
    }  # fmt: skip
    standing.measured = timezone.now()
    standing.save()
    assert "90" in ada.get(RATERS).content.decode()
    page = ada.get(f"{RATERS}{cast.bob.pk}/").content.decode()
    assert "The left answer wins too often." in page
    assert "9 / 10" in page


def test_quarantine_needs_a_reason_and_is_undone(cast: Cast, ada: Client) -> None:
    standing_of(cast.project, cast.bob)

    def decide(**fields: str) -> str:
        answer: Any = ada.post(f"{RATERS}{cast.bob.pk}/judge", fields, follow=True)
        return str(answer.content.decode())

    assert "Say why" in decide(action="quarantine", reason=" ")
    assert "Done." in decide(action="quarantine", reason="Always left.")
    assert list(excluded_raters(cast.project, timezone.now()).values()) == ["Always left."]
    assert "already" in decide(action="quarantine", reason="Again.")
    decide(action="restore", reason="Talked it over.")
    assert excluded_raters(cast.project, timezone.now()) == {}
    assert "0 to 1" in decide(action="weight", weight="2", reason="x")
    assert "0 to 1" in decide(action="weight", weight="", reason="x")
    decide(action="weight", weight="0.5", reason="New here.")
    assert Standing.objects.get(user=cast.bob).weight == 0.5
    assert "no such action" in decide(action="praise", reason="x")


def test_settings_guidelines_and_form_are_saved_and_only_changes_make_an_edition(
    cast: Cast, ada: Client
) -> None:
    def save(**changes: Any) -> str:
        bench = workbench_of(cast.project)
        fields: dict[str, Any] = {
            name: getattr(bench, name)
            for name in ("random_share", "overlap", "live_share", "live_kind", "daily_cap", "gold_share",
                         "qualification_tasks", "qualification_accuracy", "min_seconds", "review_below",
                         "flag_raters")
        }  # fmt: skip
        fields |= {f"weight-{name}": 0 for name in ("uncertain", "disagreement", "newest")}
        fields |= {"weight-random": 1, "reviews_disputes": "on"}
        cast.project.refresh_from_db()
        fields |= {"guidelines": cast.project.guidelines, "form": json.dumps(cast.project.form)}
        answer: Any = ada.post(BENCH, {**fields, **changes}, follow=True)
        return str(answer.content.decode())

    before = cast.project.guideline_version
    assert "Saved." in save()
    cast.project.refresh_from_db()
    assert cast.project.guideline_version == before
    save(overlap="3", **{"weight-newest": "2"})
    assert workbench_of(cast.project).overlap == 3
    assert workbench_of(cast.project).weights == {"random": 1.0, "newest": 2.0}
    assert "Saved." in save(overlap="3", guidelines="Prefer short answers.", **{"weight-newest": "2"})
    cast.project.refresh_from_db()
    assert cast.project.guideline_version == before + 1
    assert Edition.objects.filter(project=cast.project, guidelines="Prefer short answers.").exists()
    kept = save(overlap="3", form='{"aspects": []}', guidelines="Not lost.", **{"weight-newest": "2"})
    assert "Not lost." in kept, "what was typed stays"
    cast.project.refresh_from_db()
    assert cast.project.guidelines == "Prefer short answers.", "all or nothing"
    assert "must be a number" in save(overlap="many")
    assert "overlap" in save(overlap="0")


def test_of_two_who_change_the_guidelines_at_once_one_is_told(cast: Cast) -> None:
    mine, theirs = (Project.objects.get(pk=cast.project.pk) for _ in range(2))
    theirs.guidelines, mine.guidelines = "Theirs.", "Mine."
    update_project(project=theirs, changed=["guidelines"], actor=Actor(user=cast.ada))
    with pytest.raises(Conflict) as refused:
        update_project(project=mine, changed=["guidelines"], actor=Actor(user=cast.ada))
    assert refused.value.code == "edition_taken"
    cast.project.refresh_from_db()
    assert cast.project.guidelines == "Theirs."


def test_only_managers(cast: Cast) -> None:
    standing_of(cast.project, cast.bob)
    client = Client()
    for person in (cast.bob, cast.carol, cast.eve):
        client.force_login(person)
        for path in (RATERS, f"{RATERS}{cast.bob.pk}/", BENCH):
            assert client.get(path).status_code == 404
        assert client.post(f"{RATERS}{cast.bob.pk}/judge", {"action": "restore"}).status_code == 404
    client.force_login(cast.ada)
    assert client.get(f"{RATERS}{cast.eve.pk}/").status_code == 404
