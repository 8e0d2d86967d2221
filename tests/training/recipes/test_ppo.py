"""The PPO recipe on a tiny model: from a reward model and bare prompts it learns what is liked."""

from __future__ import annotations

import pytest

from tests.training.recipes.runs import build_run, events, finish, prompts, run, said, vowel_share
from training.recipes.rundir import Run

pytestmark = [pytest.mark.model, pytest.mark.slow]

CONFIG = {
    "epochs": 12,
    "batch_size": 24,
    "gradient_accumulation": 1,
    "max_new_tokens": 12,
    "max_length": 96,
    "learning_rate": 3e-3,
    "iterations": 3,
    "beta": 0.05,
}


def test_answers_to_prompts_never_seen_become_liked(tmp_path, letters_base, vowel_judge):
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="ppo",
        train=prompts(72, seed=1),
        heldout=prompts(40, seed=2),
        config=CONFIG,
        versions={"reward": vowel_judge},
    )
    manifest = finish(folder, "ppo")
    metrics = manifest["metrics"]
    assert metrics["heldout_reward"] > metrics["heldout_reward_before"] + 1
    assert metrics["heldout_win_rate"] > 0.7
    tokens = manifest["compute"]["tokens"]
    assert all(tokens[role] > 0 for role in ("train", "value", "reference", "generation", "reward"))
    steps = [event for event in events(folder) if event["event"] == "progress"]
    assert len(steps) == 36 and {"loss", "value_loss", "kl", "reward"} <= steps[-1]["metrics"].keys()
    before, after = (vowel_share(said(letters_base, adapter)) for adapter in (None, folder / "artifact"))
    assert after > before + 0.2  # the true taste, not the judge's


def test_an_interrupted_run_says_that_it_begins_anew(tmp_path, letters_base, vowel_judge, monkeypatch):
    folder = build_run(
        tmp_path / "r",
        letters_base,
        method="ppo",
        train=prompts(72, seed=1),
        config={**CONFIG, "epochs": 1},
        versions={"reward": vowel_judge},
    )
    tell = Run.emit

    def stop_after_one_step(self, event, **facts):
        tell(self, event, **facts)
        if event == "progress":
            self.stop.set()  # what SIGTERM does

    monkeypatch.setattr(Run, "emit", stop_after_one_step)
    assert run(folder, "ppo") == 75
    failed = events(folder)[-1]
    assert failed["cause"] == "interrupted"
    assert failed["message"] == "stopped by SIGTERM at step 1 of 3; the next start begins anew"
    monkeypatch.undo()
    finish(folder, "ppo")
    assert [event["step"] for event in events(folder) if event["event"] == "started"] == [0, 0]
