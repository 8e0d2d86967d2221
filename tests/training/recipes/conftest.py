"""The tiny model that every recipe's tests train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import build_tiny_model
from tests.training.recipes.runs import build_run, finish, letter_pairs


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "tiny-base")


@pytest.fixture(scope="session")
def letters_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each token is one character: what it says by chance is like what is read in `letter_pairs`."""
    return build_tiny_model(tmp_path_factory.mktemp("letters") / "tiny-letters", letters=True)


@pytest.fixture(scope="session")
def vowel_judge(tmp_path_factory: pytest.TempPathFactory, letters_base: Path) -> Path:
    """The artifact of a reward model that likes answers with many vowels."""
    folder = build_run(
        tmp_path_factory.mktemp("judge") / "r",
        letters_base,
        method="reward",
        train=letter_pairs(160, seed=1),
        heldout=letter_pairs(40, seed=2),
        config={"precision": "fp32", "lr_schedule": "constant"},
    )
    assert finish(folder, "reward")["metrics"]["heldout_accuracy"] > 0.9
    return folder / "artifact"
