"""Hyperparameters and data are judged in sentences, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from training.recipes.config import ConfigError, DpoConfig
from training.recipes.preflight import preflight

pytestmark = pytest.mark.unit


def test_the_defaults_pass():
    assert preflight(DpoConfig(), {"train": 100}, [80] * 100) == []


def test_a_share_that_is_a_count_is_recognised():
    [sentence] = preflight(DpoConfig(warmup_ratio=3.0), {"train": 100})
    assert sentence.startswith("warmup_ratio must be in [0, 1), got 3.0. Did you mean warmup_steps?")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"beta": 0.0}, "beta"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"lora_r": 0}, "lora_r"),
        ({"loss_type": "nonsense"}, "loss_type"),
        ({"precision": "fp8"}, "precision"),
        ({"epochs": 0}, "epochs"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"target_modules": []}, "target_modules"),
    ],
)
def test_what_is_out_of_range_is_named(change, name):
    [sentence] = DpoConfig(**change).problems()
    assert sentence.startswith(name)


def test_too_few_pairs_and_too_large_batches():
    [few] = preflight(DpoConfig(), {"train": 15})
    assert "at least 16 pairs" in few
    [large] = preflight(DpoConfig(batch_size=64), {"train": 40})
    assert "Set batch_size to 5" in large


def test_cut_answers_are_seen_before_they_are_trained_on():
    config = DpoConfig(max_length=64)
    [every] = preflight(config, {"train": 20}, [65] * 20)
    assert every.startswith("Every pair is longer")
    [most] = preflight(config, {"train": 20}, [65] * 11 + [60] * 9)
    assert most.startswith("11 of 20 pairs")
    assert preflight(config, {"train": 20}, [65] * 9 + [60] * 11) == []


def test_run_json_must_write_everything_out():
    values = DpoConfig().to_dict()
    assert DpoConfig.from_dict(values) == DpoConfig()
    del values["beta"]
    with pytest.raises(ConfigError, match="missing: beta"):
        DpoConfig.from_dict(values)
    assert DpoConfig.from_dict(values, partial=True).beta == 0.1


@pytest.mark.parametrize(
    "values",
    [{"epochs": 1.5}, {"epochs": True}, {"beta": "0.1"}, {"beta": float("nan")}, {"target_modules": "all"}],
)
def test_wrong_types_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        DpoConfig.from_dict(values, partial=True)


def test_steps_count_what_is_left_over():
    assert DpoConfig(batch_size=8, epochs=2).steps(20) == 6
    assert DpoConfig(batch_size=8, gradient_accumulation=2).steps(20) == 2
    assert DpoConfig(batch_size=8, epochs=2, max_steps=4).steps(20) == 4
    assert DpoConfig(batch_size=8, epochs=2, max_steps=9).steps(20) == 6


def test_none_of_it_loads_torch():
    code = "import training.recipes.preflight, training.recipes.dpo, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
