"""Judgements become pairs, and each one left out is counted with its reason."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.services.pairs import Answer, Judgement, make_pairs

pytestmark = pytest.mark.unit
MESSAGES = [{"role": "user", "content": "Why?"}]


def judgement(number: int, *answers: Answer, prompt: int = 1, judge: str = "user:1", **facts) -> Judgement:
    return Judgement(
        id=UUID(int=number),
        judge=judge,
        prompt_id=UUID(int=prompt),
        messages=MESSAGES,
        is_gate=facts.pop("is_gate", False),
        is_heldout=False,
        answers=answers,
        **facts,
    )


def pairs_of(*judgements: Judgement, per_rater_cap: int = 0, per_prompt_cap: int = 0):
    return make_pairs(judgements, per_rater_cap=per_rater_cap, per_prompt_cap=per_prompt_cap)


def texts(made) -> list[tuple[str, str]]:
    return [(row.chosen.text, row.rejected.text) for row in made.rows]


def test_the_better_answer_is_chosen_wherever_it_was_shown():
    made = pairs_of(
        judgement(1, Answer("good", 1), Answer("bad", 2)),
        judgement(2, Answer("poor", 2), Answer("fine", 1), prompt=2),
    )
    assert texts(made) == [("good", "bad"), ("fine", "poor")]
    assert made.drops == {}
    row = made.rows[0].to_row()
    assert row["prompt"] == MESSAGES
    assert row["chosen"] == [{"role": "assistant", "content": "good"}]
    assert row["feedback_ids"] == [str(UUID(int=1))]


@pytest.mark.parametrize(
    ("reason", "answers", "facts"),
    [
        ("gate", (Answer("a", 1), Answer("b", 2)), {"is_gate": True}),
        ("all_bad", (Answer("a"), Answer("b")), {"all_bad": True}),
        ("tie", (Answer("a", 1), Answer("b", 1)), {}),
        ("stopped_chosen", (Answer("a", 1, state="stopped"), Answer("b", 2)), {}),
        ("unfinished", (Answer("a", 1), Answer("b", 2, state="running")), {}),
        ("quarantined", (Answer("a", 1), Answer("b", 2, quarantined=True)), {}),
        ("same_text", (Answer("a", 1), Answer(" a\n", 2)), {}),
        ("empty_text", (Answer("a", 1), Answer(" ", 2)), {}),
    ],
)
def test_what_makes_no_pair_is_dropped_with_its_reason(reason, answers, facts):
    made = pairs_of(judgement(1, *answers, **facts))
    assert made.rows == []
    assert made.drops == {reason: 1}


def test_a_stopped_answer_can_be_the_worse_one_and_never_seems_to_have_ended():
    made = pairs_of(judgement(1, Answer("good", 1), Answer("cut of", 2, state="stopped")))
    row = made.rows[0].to_row()
    assert (row["chosen_ended"], row["rejected_ended"]) == (True, False)


def test_an_answer_at_the_token_limit_did_not_end():
    made = pairs_of(judgement(1, Answer("long", 1, finish_reason="length"), Answer("short", 2)))
    assert made.rows[0].to_row()["chosen_ended"] is False


def test_a_ranking_makes_a_pair_for_each_two_of_unlike_rank():
    made = pairs_of(judgement(1, Answer("c", 3), Answer("a", 1), Answer("b", 2), Answer("b2", 2)))
    assert set(texts(made)) == {("a", "b"), ("a", "b2"), ("a", "c"), ("b", "c"), ("b2", "c")}


def test_the_same_judgement_by_several_is_one_row_with_all_their_ids():
    made = pairs_of(
        judgement(1, Answer("good", 1), Answer("bad", 2), judge="user:1"),
        judgement(2, Answer("good", 1), Answer("bad", 2), judge="user:2"),
    )
    assert texts(made) == [("good", "bad")]
    assert made.rows[0].feedback_ids == [UUID(int=1), UUID(int=2)]
    assert made.drops == {"duplicate": 1}


def test_the_majority_wins_and_a_draw_makes_no_pair():
    good, bad = Answer("good", 1), Answer("bad", 2)
    against = (Answer("good", 2), Answer("bad", 1))
    majority = pairs_of(
        judgement(1, good, bad, judge="a"),
        judgement(2, good, bad, judge="b"),
        judgement(3, *against, judge="c"),
    )
    assert texts(majority) == [("good", "bad")]
    assert majority.drops["outvoted"] == 1
    draw = pairs_of(judgement(1, good, bad, judge="a"), judgement(2, *against, judge="b"))
    assert texts(draw) == []
    assert draw.drops["outvoted"] == 2


def test_caps_keep_the_first():
    by_rater = pairs_of(
        *(judgement(n, Answer(f"a{n}", 1), Answer(f"b{n}", 2), prompt=n) for n in range(1, 5)),
        per_rater_cap=3,
    )
    assert [row.chosen.text for row in by_rater.rows] == ["a1", "a2", "a3"]
    assert by_rater.drops == {"per_rater_cap": 1}
    by_prompt = pairs_of(
        judgement(1, Answer("a", 1), Answer("b", 2), Answer("c", 3), Answer("d", 4)), per_prompt_cap=2
    )
    assert len(by_prompt.rows) == 2
    assert by_prompt.drops == {"per_prompt_cap": 4}


sides = st.builds(
    Answer,
    text=st.sampled_from(["", "a", "b", "c", "d"]),
    rank=st.integers(1, 3),
    state=st.sampled_from(["finished", "stopped", "running"]),
    quarantined=st.booleans(),
)


@given(
    st.lists(
        st.tuples(st.lists(sides, min_size=2, max_size=4), st.integers(1, 3), st.booleans()), max_size=12
    )
)
def test_no_row_ever_breaks_the_rules(drawn):
    made = pairs_of(
        *(
            judgement(n, *answers, prompt=prompt, is_gate=prompt == 3, all_bad=all_bad, judge=f"user:{n}")
            for n, (answers, prompt, all_bad) in enumerate(drawn)
        )
    )
    seen = set()
    for row in made.rows:
        assert row.prompt_id != UUID(int=3), "a gate prompt entered training"
        assert row.chosen.state == "finished"
        assert not (row.chosen.quarantined or row.rejected.quarantined)
        assert row.chosen.text.strip() != row.rejected.text.strip()
        key = (row.prompt_id, row.chosen.text, row.rejected.text)
        assert key not in seen
        assert (row.prompt_id, row.rejected.text, row.chosen.text) not in seen
        seen.add(key)
