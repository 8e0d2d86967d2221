"""The RLOO recipe on a tiny model: from a reward model and bare prompts it learns what is liked."""

from __future__ import annotations

import json

import pytest

from tests.training.recipes.runs import build_run, events, finish, prompts, run, said, vowel_share

pytestmark = [pytest.mark.model, pytest.mark.slow]

CONFIG = {
    "precision": "fp32",
    "epochs": 4,
    "batch_size": 32,
    "gradient_accumulation": 1,
    "generations": 4,
    "max_new_tokens": 12,
    "max_length": 96,
    "learning_rate": 1e-2,
    "beta": 0.02,
}


def test_answers_to_prompts_never_seen_become_liked(tmp_path, letters_base, vowel_judge):
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="rloo",
        train=prompts(48, seed=1),
        heldout=prompts(40, seed=2),
        config=CONFIG,
        versions={"reward": vowel_judge},
    )
    manifest = finish(folder, "rloo")
    metrics = manifest["metrics"]
    assert metrics["heldout_reward"] > metrics["heldout_reward_before"] + 1
    assert metrics["heldout_win_rate"] > 0.7
    assert metrics["heldout_kl"] > 0
    assert manifest["reward"] == json.loads((vowel_judge / "manifest.json").read_text())["digest"]
    tokens = manifest["compute"]["tokens"]
    assert all(tokens[role] > 0 for role in ("train", "reference", "generation", "reward", "heldout"))
    assert manifest["compute"]["flops_by_role"]["generation"] > 0
    assert events(folder)[-1]["step"] == events(folder)[-1]["total"] == 24
    before, after = (vowel_share(said(letters_base, adapter)) for adapter in (None, folder / "artifact"))
    assert after > before + 0.2  # the true taste, not the judge's


def test_a_reward_model_is_needed_and_must_be_one(tmp_path, letters_base, base, vowel_judge):
    bare = build_run(tmp_path / "a", letters_base, method="rloo", train=prompts(48, seed=1), config=CONFIG)
    assert run(bare, "rloo") == 65
    assert "rloo needs a reward model" in events(bare)[-1]["message"]
    foreign = build_run(
        tmp_path / "b",
        base,
        method="rloo",
        train=prompts(48, seed=1),
        config=CONFIG,
        versions={"reward": vowel_judge},
    )
    assert run(foreign, "rloo") == 65
    assert "Train one on this base" in events(foreign)[-1]["message"]


def test_too_few_prompts_for_one_step_are_refused_in_a_sentence(tmp_path, letters_base, vowel_judge):
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="rloo",
        train=prompts(20, seed=1),
        config={**CONFIG, "batch_size": 128},
        versions={"reward": vowel_judge},
    )
    assert run(folder, "rloo") == 65
    assert "One step of RLOO answers 32 different prompts and there are 20" in events(folder)[-1]["message"]
