"""The KTO recipe on a tiny model: it learns from answers that were wanted or not, without pairs."""

from __future__ import annotations

import pytest

from tests.training.recipes.runs import build_run, events, finish, labels, run

pytestmark = pytest.mark.model


def test_wanted_answers_rise_above_unwanted_ones(tmp_path, base):
    """49 rows of which one in four is wanted: the last is alone in its batch and left out."""
    folder = build_run(
        tmp_path / "r",
        base,
        method="kto",
        train=labels(49, seed=1, wanted_of_four=1),
        heldout=labels(24, seed=2),
        config={"epochs": 2},
    )
    manifest = finish(folder, "kto")
    metrics = manifest["metrics"]
    assert metrics["heldout_labels"] == 24
    assert metrics["heldout_accuracy_before"] == 0.5
    assert metrics["heldout_accuracy"] > 0.9
    assert metrics["heldout_margin"] > 0
    assert (manifest["labels"], manifest["wanted"], manifest["unwanted"]) == (48, 13, 36)
    tokens = manifest["compute"]["tokens"]
    # Each row is read by the policy and the reference, and by both once more with another row's answer.
    assert tokens["reference"] == pytest.approx(3 * tokens["train"], rel=0.05)


def test_one_label_only_is_refused_in_a_sentence(tmp_path, base):
    folder = build_run(tmp_path / "r", base, method="kto", train=labels(24, seed=1, wanted_of_four=4))
    assert run(folder, "kto") == 65
    assert events(folder)[-1]["message"].startswith("All labels are wanted. KTO learns from the difference")


def test_a_batch_of_one_is_refused_in_a_sentence(tmp_path, base):
    folder = build_run(tmp_path / "r", base, method="kto", train=labels(24, seed=1), config={"batch_size": 1})
    assert run(folder, "kto") == 65
    assert "batch_size must be at least 2, got 1" in events(folder)[-1]["message"]


def test_a_cut_answer_keeps_its_cut_beside_another_prompt_too():
    from training.recipes.labels import EndAwareUnpairedCollator

    end, line = 2, 9
    collate = EndAwareUnpairedCollator(pad_token_id=0, max_length=16, end_ids=frozenset({end}))
    rows = [
        {"prompt_ids": [5], "completion_ids": [6, end, line], "label": True, "ended": True},
        {"prompt_ids": [5, 5], "completion_ids": [7, 7, end, line], "label": False, "ended": False},
    ]
    for number, row in enumerate(rows):
        row["KL_completion_ids"] = rows[number - 1]["completion_ids"]
    batch = collate(rows)
    assert batch["input_ids"].tolist() == [[5, 6, end, 0], [5, 5, 7, 7]]
    assert batch["KL_input_ids"].tolist() == [[5, 7, 7, 0], [5, 5, 6, end]]
