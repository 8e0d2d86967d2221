"""The pretraining recipe on a tiny model: from plain texts it learns what comes next."""

from __future__ import annotations

import pytest

from tests.training.recipes.runs import answers, build_run, events, finish, run

pytestmark = pytest.mark.model


def texts(count: int, seed: int) -> list[dict[str, str]]:
    return [{"text": row["completion"][0]["content"]} for row in answers(count, seed)]


def test_texts_that_were_never_seen_are_foretold_better(tmp_path, base):
    folder = build_run(
        tmp_path / "r",
        base,
        method="pretrain",
        train=texts(120, seed=1),
        heldout=texts(20, seed=2),
        config={"epochs": 3, "max_length": 32},
    )
    manifest = finish(folder, "pretrain")
    metrics = manifest["metrics"]
    assert metrics["heldout_texts"] == 20
    assert metrics["heldout_loss"] < 0.7 * metrics["heldout_loss_before"]
    assert manifest["texts"] == 120
    # No token is padding, and none is left out: each is read once an epoch.
    read = manifest["compute"]["tokens"]["train"]
    assert 32 * (manifest["blocks"] - 1) * 3 < read <= 32 * manifest["blocks"] * 3


def test_texts_too_short_for_one_batch_are_refused_in_a_sentence(tmp_path, base):
    folder = build_run(tmp_path / "r", base, method="pretrain", train=texts(4, seed=1))
    assert run(folder, "pretrain") == 65
    assert "block(s) of max_length 128, and a batch is 8" in events(folder)[-1]["message"]
