"""The examples of an evaluation by REST: filtered, in pages, with what each judge said."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cast import Cast, error_of
from tests.training.conftest import second_version, vote
from training.models import Evaluation


@pytest.fixture
def evaluation(cast: Cast) -> Evaluation:
    """Six gate prompts: won, lost, tied, won by an empty answer, two not judged."""
    candidate = second_version(cast)
    ids = []
    for number, text in enumerate(("New.", "New.", "New.", " ", "New.", "New.")):
        prompt, (new, old) = cast.answered_prompt(
            f"Gate {number}?", [text, "Old."], split="gate", versions=[candidate, cast.v1]
        )
        ids.append(str(prompt.id))
        if number in (0, 3):
            vote(cast, new, old)
        elif number == 1:
            vote(cast, old, new)
        elif number == 2:
            vote(cast, new, old, tie=True)
    return Evaluation.objects.create(
        project=cast.project, number=1, candidate=candidate, champion=cast.v1, prompt_ids=ids,
        status="judging", scores={ids[0]: [0.1, 0.9], ids[1]: [0.1, 0.9], ids[2]: [0.4, 0.4]},
    )  # fmt: skip


def examples(cast: Cast, **query: Any) -> Any:
    return cast.get("evaluations/1/examples", query).json()


@pytest.mark.parametrize(
    ("show", "places"),
    [
        ("candidate", {0, 3}), ("champion", {1}), ("tie", {2}), ("degenerate", {3}), ("disagree", {0}),
        ("open", {4, 5}),
    ],
)  # fmt: skip
def test_filters(cast: Cast, evaluation: Evaluation, show: str, places: set[int]):
    found = {row["prompt_id"] for row in examples(cast, show=show)["items"]}
    assert found == {evaluation.prompt_ids[place] for place in places}


def test_a_row_says_all(cast: Cast, evaluation: Evaluation):
    [row] = examples(cast, show="champion")["items"]
    assert (row["question"].startswith("Gate 1?"), row["winner"], row["scores"]) == (True, "champion", [0.0])
    assert (row["candidate"]["text"], row["champion"]["text"], row["judge"]) == ("New.", "Old.", [0.1, 0.9])
    [row] = examples(cast, show="degenerate")["items"]
    assert row["candidate"]["faults"] == ["empty"]


def test_pages_hold_each_once_and_the_judged_first(cast: Cast, evaluation: Evaluation):
    seen: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = examples(cast, limit=2, cursor=cursor)
        seen += page["items"]
        cursor = page["next"]
    assert sorted(row["prompt_id"] for row in seen) == sorted(evaluation.prompt_ids)
    assert [bool(row["scores"]) for row in seen] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("query", [{"show": "bad"}, {"limit": "0"}, {"limit": "x"}, {"limit": "201"}])
def test_what_is_refused(cast: Cast, evaluation: Evaluation, query: dict[str, str]):
    answer = cast.get("evaluations/1/examples", query)
    assert (answer.status_code, error_of(answer)["param"]) == (422, next(iter(query)))
    assert cast.get("evaluations/1/examples", key=cast.foreign_key).status_code == 404
