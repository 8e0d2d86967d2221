"""An estimate is what the account says afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.training.recipes.runs import build_run, finish, labels, pairs, prompts
from training.recipes.config import CONFIGS, DpoConfig, PpoConfig, RlooConfig
from training.recipes.estimates import ModelFacts, estimate

SMOLLM2 = ModelFacts(
    hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, head_dim=64, vocabulary=49152
)


@pytest.mark.model
@pytest.mark.parametrize(("method", "rows"), [("dpo", pairs), ("reward", pairs), ("kto", labels)])
def test_tokens_and_flops_are_foretold(tmp_path, base, method, rows):
    folder = build_run(tmp_path / "r", base, method=method, train=rows(48, seed=1), config={"epochs": 2})
    done = finish(folder, method)["compute"]
    config = CONFIGS[method].from_dict(json.loads((folder / "run.json").read_text())["config"])
    texts = 96 if method in ("dpo", "reward") else 48
    foretold = estimate(
        config,
        rows=48,
        tokens_a_text=done["tokens"]["train"] / texts / 2,
        model=ModelFacts.read(base),
        speed=1e9,
    )
    assert foretold.tokens["train"] == pytest.approx(done["tokens"]["train"], abs=2)
    assert sum(foretold.tokens.values()) == pytest.approx(sum(done["tokens"].values()), rel=0.05)
    assert foretold.flops == pytest.approx(done["flops"], rel=0.05)
    assert foretold.seconds == pytest.approx(foretold.flops / 1e9)


@pytest.mark.model
@pytest.mark.slow
def test_rollouts_are_foretold(tmp_path, letters_base, vowel_judge):
    """Their answers may end early, so at most what is said, and no less than half of it."""
    config = {
        "precision": "fp32",
        "batch_size": 8,
        "gradient_accumulation": 2,
        "generations": 4,
        "max_new_tokens": 12,
        "max_length": 96,
        "max_steps": 3,
        "learning_rate": 1e-2,
    }
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="rloo",
        train=prompts(24, seed=1),
        config=config,
        versions={"reward": vowel_judge},
    )
    done = finish(folder, "rloo")["compute"]
    made = RlooConfig.from_dict(json.loads((folder / "run.json").read_text())["config"])
    foretold = estimate(made, rows=24, tokens_a_text=2 * 76, model=ModelFacts.read(letters_base), speed=1e9)
    assert foretold.tokens.keys() <= done["tokens"].keys()
    for role, count in foretold.tokens.items():
        assert 0.5 * count < done["tokens"][role] < 1.2 * count, role


@pytest.mark.unit
def test_memory_is_what_was_measured_on_the_default_model():
    """DPO, fp32, batches of 8 short pairs on all layers: 5.4 GB."""
    found = estimate(
        DpoConfig(precision="fp32"), rows=64, tokens_a_text=100, model=SMOLLM2, speed=1e11
    ).memory_bytes
    assert found == pytest.approx(5.4e9, rel=0.15)


@pytest.mark.unit
def test_what_saves_memory_is_seen_to():
    def memory(config):
        return estimate(config, rows=64, tokens_a_text=200, model=SMOLLM2, speed=1e11).memory_bytes

    plain = DpoConfig()
    assert memory(replace(plain, batch_size=4)) < memory(plain)
    assert memory(replace(plain, gradient_checkpointing=True)) < memory(plain)
    assert memory(replace(plain, last_layers=8)) < memory(plain)
    assert memory(replace(plain, precision="fp32")) > memory(plain)
    assert memory(PpoConfig(precision="bf16")) > memory(RlooConfig())


@pytest.mark.unit
@pytest.mark.parametrize("method", CONFIGS)
def test_every_method_has_an_estimate_in_words(method):
    found = estimate(CONFIGS[method](), rows=500, tokens_a_text=200, model=SMOLLM2, speed=1e11)
    assert found.flops > 0 and found.memory_bytes > 500_000_000
    assert "GB" in found.in_words() and "about" in found.in_words()
