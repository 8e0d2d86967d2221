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
                is_shown=True,
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


# --- edges -----------------------------------------------------------------------------------------------
def compare(
    cast: Cast, versions: list[Version], ranks: list[int] | None, count: int, *, who: str = ""
) -> None:
    """So many votes on prompts of their own; no ranks: all bad."""
    for number in range(count):
        labels = " ".join(str(version.number) for version in versions)
        _, made = cast.answered_prompt(
            f"{labels} {ranks} {who} {number}?",
            [f"Answer {n}." for n in range(len(versions))],
            versions=versions,
        )
        record_preference(
            project=cast.project,
            judge=Judge(api_key=cast.api_key, subject=who),
            candidates=[one.pk for one in made],
            ranks=ranks,
            all_bad=ranks is None,
            source="api",
            is_shown=True,
        )


def another(cast: Cast, number: int) -> Version:
    return Version.objects.create(
        project=cast.project, number=number, kind="adapter", path=f"v/{number}", digest=f"sha256:{number}"
    )


def test_votes_between_answers_of_one_version_rank_nothing(cast: Cast) -> None:
    measure_leaderboards()
    assert cast.get("leaderboard").json()["places"] == []
    compare(cast, [cast.v1, cast.v1], [1, 2], 5)
    measure_leaderboards()
    board = cast.get("leaderboard").json()
    assert (board["places"], board["votes"], board["longer_won"]) == ([], 0, None)
    assert "No votes between versions yet" in _page(cast)


@pytest.mark.parametrize("ranks", [[1, 1], None])
def test_all_ties_put_nobody_first(cast: Cast, ranks: list[int] | None) -> None:
    v2 = another(cast, 2)
    for who in "abcd":
        compare(cast, [cast.v1, v2], ranks, 10, who=who)
    measure_leaderboards()
    for place in places(cast).values():
        assert place["points"] == pytest.approx(0, abs=1e-6)
        assert place["win_rate"] == 0.5
        assert place["low"] <= 0 <= place["high"]
    assert places(cast)["kitchen@v2"]["better"] == pytest.approx(0.5, abs=0.05)
    assert cast.get("leaderboard").json()["longer_won"] is None
    assert _page(cast).count('class="dot"') == 2


def test_what_no_chain_of_votes_joins_with_the_champion_is_said_to_be_apart(cast: Cast) -> None:
    v2, v3, v4 = (another(cast, number) for number in (2, 3, 4))
    for who in "abc":
        compare(cast, [cast.v1, v2], [2, 1], 12, who=who)
        compare(cast, [v3, v4], [1, 2], 12, who=who)
    measure_leaderboards()
    found = places(cast)
    assert {name: place["is_connected"] for name, place in found.items()} == {
        "kitchen@v1": True, "kitchen@v2": True, "kitchen@v3": False, "kitchen@v4": False,
    }  # fmt: skip
    assert not found["kitchen@v3"]["is_settled"], "thirty-six votes, and none against the champion's kin"
    assert found["kitchen@v2"]["is_settled"]
    assert all(place["low"] < place["points"] < place["high"] for place in found.values())
    assert _page(cast).count('class="dot"') == 4


def test_one_rater_with_nine_of_ten_votes_makes_no_narrow_interval(cast: Cast) -> None:
    """Anna's 90 votes are for v2; ten others, with a vote each, are evenly split. So it is not sure."""
    v2 = another(cast, 2)
    compare(cast, [cast.v1, v2], [2, 1], 90, who="anna")
    for number in range(10):
        compare(cast, [cast.v1, v2], [2, 1] if number % 2 else [1, 2], 1, who=f"rater {number}")
    measure_leaderboards()
    busy = places(cast)["kitchen@v2"]
    assert busy["win_rate"] == pytest.approx(0.95)
    assert busy["better"] < 0.975
    assert busy["low"] < 30, "without Anna, who is one of eleven, there is nothing"
    board = cast.get("leaderboard").json()
    assert (board["votes"], board["raters"]) == (100, 11)
    with_all = busy["high"] - busy["low"]
    Leaderboard.objects.all().delete()
    for number in range(90):
        compare(cast, [cast.v1, v2], [2, 1], 1, who=f"many {number}")
    Preference.objects.filter(subject="anna").update(retracted=timezone.now())
    measure_leaderboards()
    many = places(cast)["kitchen@v2"]
    assert many["win_rate"] == pytest.approx(0.95)
    assert many["high"] - many["low"] < with_all / 2, "the same votes by a hundred people are sure"
    assert many["better"] > 0.99
