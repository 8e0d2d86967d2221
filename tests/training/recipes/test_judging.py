"""The runs that judge: score and evaluate, on what a tiny model has learned, one row an example."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.training.recipes.runs import (
    answers,
    build_run,
    events,
    finish,
    letter_pairs,
    pairs,
    rows_of,
    run,
)

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def learned(tmp_path_factory, base):
    """An adapter that likes the liked words."""
    folder = build_run(tmp_path_factory.mktemp("dpo") / "r", base)
    finish(folder, "dpo")
    return folder / "artifact"


def completions(side: str) -> list[dict[str, Any]]:
    return [
        {"id": f"{side}-{number:02}", "prompt": row["prompt"], "completion": row[side], "ended": True}
        for number, row in enumerate(letter_pairs(24, seed=5))
    ]


def test_a_reward_model_scores_every_answer_by_its_id(tmp_path, letters_base, vowel_judge):
    long = {**completions("chosen")[0], "id": "a-long-one"}
    long["completion"] = [{"role": "assistant", "content": "e" * 300}]
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="score",
        train=[*completions("chosen"), *completions("rejected"), long],
        config={"precision": "fp32", "max_length": 200},
        versions={"reward": vowel_judge},
    )
    manifest = finish(folder, "score")
    rows = rows_of(folder)
    assert manifest["kind"] == "rows" and manifest["rows"] == len(rows) == 49
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert rows[0] == {"id": "a-long-one", "score": None, "tokens": 301}
    scores = {row["id"]: row["score"] for row in rows}
    better = sum(scores[f"chosen-{n:02}"] > scores[f"rejected-{n:02}"] for n in range(24))
    assert better >= 22
    assert manifest["compute"]["tokens"]["reward"] > 0
    assert events(folder)[-1]["metrics"]["without_score"] == 1


def test_without_a_reward_model_the_score_is_the_likelihood(tmp_path, base, learned):
    train = [
        {"id": f"{side}-{number:02}", "prompt": row["prompt"], "completion": row[side]}
        for number, row in enumerate(pairs(16, seed=2))
        for side in ("chosen", "rejected")
    ]
    means = {}
    for name, versions in (("base", {}), ("learned", {"adapter": learned})):
        folder = build_run(tmp_path / name, base, method="score", train=train, versions=versions)
        finish(folder, "score")
        scores = {row["id"]: row["score"] for row in rows_of(folder)}
        assert all(score < 0 for score in scores.values())
        means[name] = sum(scores[f"chosen-{n:02}"] - scores[f"rejected-{n:02}"] for n in range(16)) / 16
    assert means["learned"] > means["base"] + 0.1


def test_a_version_is_judged_beside_the_base(tmp_path, base, learned):
    heldout = pairs(20, seed=2)
    texts = [
        {"id": f"t{n}", "text": row["completion"][0]["content"]} for n, row in enumerate(answers(12, seed=4))
    ]
    folder = build_run(
        tmp_path / "r",
        base,
        method="evaluate",
        parts={"text": texts, "pairs": [{**row, "id": row["prompt_id"]} for row in heldout]},
        versions={"adapter": learned},
    )
    metrics = finish(folder, "evaluate")["metrics"]
    rows = rows_of(folder)
    assert len(rows) == 32 and {row["part"] for row in rows} == {"text", "pairs"}
    assert metrics["preference_accuracy"] > 0.9
    judged = [row for row in rows if row["part"] == "pairs"]
    assert sum(row["value"] > row["value_base"] for row in judged) / 20 == metrics["preference_accuracy"]
    read = [row for row in rows if row["part"] == "text"]
    total = sum(row["tokens"] for row in read)
    mean = sum(row["value_base"] * row["tokens"] for row in read) / total
    assert metrics["perplexity_base"] == pytest.approx(math.exp(mean))
    assert metrics["perplexity"] != metrics["perplexity_base"]


def test_paired_answers_are_judged_by_a_reward_model(tmp_path, letters_base, vowel_judge):
    rows = letter_pairs(24, seed=6)
    parts = {
        "pairs": [{**row, "id": f"p{n}"} for n, row in enumerate(rows)],
        "answers": [
            {"id": f"a{n}", "prompt": row["prompt"], "candidate": row["rejected"], "champion": row["chosen"]}
            for n, row in enumerate(rows)
        ],
    }
    config = {"precision": "fp32"}
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="evaluate",
        parts=parts,
        config=config,
        versions={"reward": vowel_judge},
    )
    metrics = finish(folder, "evaluate")["metrics"]
    assert metrics["reward_win_rate"] < 0.1  # the candidate's answers were the rejected ones
    assert metrics["reward_accuracy"] > 0.9
    assert metrics["preference_accuracy"] == 0.5  # the base beside itself
    assert metrics["score_mean"] < metrics["score_mean_base"]

    alone = build_run(tmp_path / "alone", letters_base, method="evaluate", parts=parts, config=config)
    assert run(alone, "evaluate") == 65
    assert "answers are compared by a reward model" in events(alone)[-1]["message"]
