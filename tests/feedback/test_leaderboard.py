"""The leaderboard: counted from votes that stand, of raters who are trusted, and seen by members alone."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from feedback.models import Leaderboard, Preference
from feedback.services.judge import Judge
from feedback.services.leaderboard import measure_leaderboard
from feedback.services.raters import quarantine_rater
from feedback.services.record import record_preference
from feedback.tasks import measure_leaderboards
from inference.models import Version
from projects.services import Actor
from tests.cast import Cast

PATH = "/p/kitchen/leaderboard/"


@pytest.fixture
def voted(cast: Cast) -> Cast:
    """Bob and Carol compare v1 with v2 on 20 prompts each: v2 wins, but for Carol's last five."""
    v2 = Version.objects.create(project=cast.project, number=2, kind="adapter", path="v/2", digest="sha256:2")
    for number in range(20):
        _, made = cast.answered_prompt(
            f"Question {number}?", ["Short.", "A longer answer."], versions=[cast.v1, v2]
        )
        for rater in (cast.bob, cast.carol):
            v1_wins = rater == cast.carol and number >= 15
            record_preference(
                project=cast.project,
                judge=Judge(user=rater),
                candidates=[one.pk for one in made],
                ranks=[1, 2] if v1_wins else [2, 1],
                source="ui",
            )
    return cast


def places(cast: Cast) -> dict[str, Any]:
    return {place["version"]: place for place in cast.get("leaderboard").json()["places"]}


def test_versions_in_order_with_intervals_and_lengths(voted: Cast) -> None:
    assert voted.get("leaderboard").json()["measured"] is None
    assert "No votes between versions yet" in _page(voted)
    measure_leaderboards()
    board = voted.get("leaderboard").json()
    first, second = board["places"]
    assert (first["version"], second["version"]) == ("kitchen@v2", "kitchen@v1")
    assert (board["reference"], board["votes"], board["raters"]) == ("kitchen@v1", 40, 2)
    assert first["win_rate"] == pytest.approx(35 / 40)
    assert first["low"] < first["points"] < first["high"]
    assert first["better"] > 0.95
    assert second["better"] is None
    assert first["is_settled"]
    assert board["longer_won"] == pytest.approx(35 / 40)
    assert (second["characters"], first["characters"]) == (6, 16)
    page = _page(voted)
    assert "not enough votes yet" not in page
    assert page.count('class="dot"') == 2


def test_it_is_measured_again_only_when_something_changed(voted: Cast) -> None:
    assert measure_leaderboard(voted.project)
    assert not measure_leaderboard(voted.project)
    Preference.objects.filter(judge=Judge(user=voted.bob).key).update(retracted=timezone.now())
    assert measure_leaderboard(voted.project)
    assert places(voted)["kitchen@v2"]["votes"] == 20
    assert places(voted)["kitchen@v2"]["is_settled"] is False
    assert "not enough votes yet" in _page(voted)


def test_a_quarantined_rater_does_not_count(voted: Cast) -> None:
    measure_leaderboard(voted.project)
    quarantine_rater(
        project=voted.project, rater=voted.bob, actor=Actor(user=voted.ada), reason="Always right."
    )
    assert measure_leaderboard(voted.project)
    assert places(voted)["kitchen@v2"]["win_rate"] == pytest.approx(15 / 20)


def test_only_members_and_keys_of_the_project_see_it(voted: Cast) -> None:
    measure_leaderboard(voted.project)
    assert Leaderboard.objects.count() == 1, "the garden has no votes"
    voted.client.force_login(voted.eve)
    assert voted.client.get(PATH).status_code == 404
    assert voted.get("leaderboard", key=voted.foreign_key).json()["places"] == []
    assert voted.get("leaderboard", {"project": "kitchen"}).status_code == 422


def _page(cast: Cast) -> str:
    cast.client.force_login(cast.bob)
    return cast.client.get(PATH).content.decode()
