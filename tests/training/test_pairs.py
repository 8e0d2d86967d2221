"""What was said about one prompt becomes pairs, and each thing left out is counted with its reason."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.services.data.group import Answer, Correction, Group, Preference, Rating, Row
from training.services.data.pairs import make_pairs
from training.services.filters import DatasetFilters

pytestmark = pytest.mark.unit
MESSAGES = [{"role": "user", "content": "Why?"}]
GOOD, BAD = Answer("good"), Answer("bad")


def preference(
    number: int, *ranks: tuple[Answer, int | None], weight: float = 1.0, **facts: Any
) -> Preference:
    return Preference(f"id-{number:04}", f"user:{number}", weight, True, list(ranks), **facts)


def rating(
    number: int, answer: Answer, score: float, *, weight: float = 1.0, aspect: str = "thumbs"
) -> Rating:
    return Rating(f"id-{number:04}", f"user:{number}", weight, True, answer, aspect, score)


def pairs_of(*said: Preference | Rating | Correction, **filters: Any) -> tuple[list[Row], Counter[str]]:
    group = Group("p", MESSAGES)
    for one in said:
        {Preference: group.preferences, Rating: group.ratings, Correction: group.corrections}[
            type(one)
        ].append(one)  # type: ignore[attr-defined]
    drops: Counter[str] = Counter()
    return list(make_pairs(group, DatasetFilters(**filters), drops)), drops


def texts(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.answers[0].text, row.answers[1].text) for row in rows]


def test_the_better_answer_is_chosen_wherever_it_was_shown():
    rows, drops = pairs_of(
        preference(1, (GOOD, 1), (BAD, 2)), preference(2, (Answer("poor"), 2), (Answer("fine"), 1))
    )
    assert texts(rows) == [("good", "bad"), ("fine", "poor")]
    assert not drops
    assert (rows[0].feedback_ids, rows[0].messages, rows[0].margin) == (["id-0001"], MESSAGES, None)


@pytest.mark.parametrize(
    ("reason", "ranks", "facts"),
    [
        ("all_bad", ((GOOD, None), (BAD, None)), {"all_bad": True}),
        ("tie", ((GOOD, 1), (BAD, 1)), {}),
        ("stopped_chosen", ((Answer("a", state="stopped"), 1), (BAD, 2)), {}),
        ("unfinished", ((GOOD, 1), (Answer("b", state="running"), 2)), {}),
        ("quarantined", ((GOOD, 1), (Answer("b", quarantined=True), 2)), {}),
        ("same_text", ((Answer("a"), 1), (Answer(" a\n"), 2)), {}),
        ("empty_text", ((Answer("a"), 1), (Answer("  "), 2)), {}),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(reason, ranks, facts):
    rows, drops = pairs_of(preference(1, *ranks, **facts))
    assert rows == []
    assert drops == {reason: 1}


def test_a_stopped_or_cut_answer_never_seems_to_have_ended():
    rows, _ = pairs_of(
        preference(1, (Answer("long", finish_reason="length"), 1), (Answer("cut of", state="stopped"), 2))
    )
    assert [answer.ended for answer in rows[0].answers] == [False, False]


A, B, B2, C = Answer("a"), Answer("b"), Answer("b2"), Answer("c")


@pytest.mark.parametrize(
    ("rankings", "expected"),
    [
        ("all", [("a", "c"), ("a", "b"), ("a", "b2"), ("b", "c"), ("b2", "c")]),
        ("adjacent", [("a", "b"), ("a", "b2"), ("b", "c"), ("b2", "c")]),
        ("extremes", [("a", "c")]),
    ],
)
def test_a_ranking_makes_pairs_the_widest_gap_first(rankings, expected):
    rows, _ = pairs_of(preference(1, (C, 3), (A, 1), (B, 2), (B2, 2)), rankings=rankings)
    assert texts(rows) == expected


def test_strength_is_the_margin_and_nearer_ranks_get_their_share():
    assert [row.margin for row in pairs_of(preference(1, (GOOD, 1), (BAD, 2), strength=3))[0]] == [3.0]
    rows, _ = pairs_of(preference(1, (A, 1), (B, 2), (C, 4), strength=2))
    assert {texts([row])[0]: row.margin for row in rows} == {
        ("a", "c"): 2.0,
        ("a", "b"): 1.0,
        ("b", "c"): 1.0,
    }


def test_the_margin_of_several_is_the_mean_by_their_weights():
    rows, _ = pairs_of(
        preference(1, (GOOD, 1), (BAD, 2), strength=3, weight=3.0),
        preference(2, (GOOD, 1), (BAD, 2), strength=1),
        preference(3, (GOOD, 1), (BAD, 2)),
    )
    assert rows[0].margin == pytest.approx(2.5)
    assert rows[0].feedback_ids == ["id-0001", "id-0002", "id-0003"]


def test_the_heavier_side_wins_and_a_draw_makes_no_pair():
    against = ((GOOD, 2), (BAD, 1))
    rows, drops = pairs_of(
        preference(1, (GOOD, 1), (BAD, 2)), preference(2, (GOOD, 1), (BAD, 2)), preference(3, *against)
    )
    assert texts(rows) == [("good", "bad")]
    assert drops == {"duplicate": 1, "outvoted": 1}
    rows, _ = pairs_of(
        preference(1, (GOOD, 1), (BAD, 2), weight=0.4),
        preference(2, (GOOD, 1), (BAD, 2), weight=0.4),
        preference(3, *against),
    )
    assert texts(rows) == [("bad", "good")], "two of little weight against one of full weight"
    rows, drops = pairs_of(preference(1, (GOOD, 1), (BAD, 2)), preference(2, *against))
    assert (rows, drops) == ([], {"outvoted": 2})


def test_a_correction_is_chosen_over_what_it_corrects():
    rows, _ = pairs_of(Correction("id-0001", "user:1", 1.0, True, BAD, GOOD))
    assert texts(rows) == [("good", "bad")]


def test_rated_answers_make_a_pair_when_the_gap_is_clear():
    rows, drops = pairs_of(rating(1, GOOD, 1.0), rating(2, BAD, -1.0), rating(3, Answer("so so"), 0.5))
    assert texts(rows) == [("good", "bad"), ("so so", "bad")]
    assert rows[0].feedback_ids == ["id-0001", "id-0002"]
    assert not drops
    rows, drops = pairs_of(rating(1, GOOD, 0.4), rating(2, BAD, -0.4))
    assert (rows, drops) == ([], {"no_clear_gap": 2})


def test_raters_who_disagree_about_an_answer_meet_in_the_middle():
    rows, _ = pairs_of(
        rating(1, GOOD, 1.0), rating(2, GOOD, -1.0), rating(3, BAD, -1.0), rating(4, BAD, -1.0, weight=0.2)
    )
    assert texts(rows) == [("good", "bad")], "0 against -1 is a gap of 1"
    rows, _ = pairs_of(rating(1, GOOD, 1.0, weight=0.1), rating(2, GOOD, -1.0), rating(3, BAD, -1.0))
    assert rows == []


def test_who_compared_the_two_side_by_side_is_believed_before_their_ratings():
    rows, drops = pairs_of(preference(1, (BAD, 1), (GOOD, 2)), rating(2, GOOD, 1.0), rating(3, BAD, -1.0))
    assert texts(rows) == [("bad", "good")]
    assert drops == {"no_clear_gap": 2}


sides = st.builds(
    Answer,
    text=st.sampled_from(["", "a", "b", "c", "d"]),
    state=st.sampled_from(["finished", "stopped", "running"]),
    quarantined=st.booleans(),
)


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(sides, st.integers(1, 3)), min_size=2, max_size=4),
            st.booleans(),
            st.sampled_from([0.3, 1.0, 2.0]),
        ),
        max_size=12,
    ),
    st.lists(st.tuples(sides, st.sampled_from([-1.0, 0.2, 1.0])), max_size=4),
    st.sampled_from(["all", "adjacent", "extremes"]),
)
def test_no_row_ever_breaks_the_rules(compared, rated, rankings):
    rows, _ = pairs_of(
        *(preference(n, *ranks, all_bad=bad, weight=w) for n, (ranks, bad, w) in enumerate(compared)),
        *(rating(100 + n, answer, score) for n, (answer, score) in enumerate(rated)),
        rankings=rankings,
    )
    seen = set()
    for row in rows:
        chosen, rejected = row.answers
        assert chosen.state == "finished"
        assert not (chosen.quarantined or rejected.quarantined)
        assert chosen.text.strip() != rejected.text.strip()
        assert (chosen.text, rejected.text) not in seen
        assert (rejected.text, chosen.text) not in seen
        seen.add((chosen.text, rejected.text))
        assert row.feedback_ids
