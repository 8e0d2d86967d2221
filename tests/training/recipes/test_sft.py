"""The SFT recipe on a tiny model: it learns to answer, from the answers alone."""

from __future__ import annotations

import pytest

from tests.training.recipes.runs import answers, build_run, events, finish, run

pytestmark = pytest.mark.model


def test_answers_become_likelier_on_prompts_that_were_never_seen(tmp_path, base):
    folder = build_run(
        tmp_path / "r",
        base,
        method="sft",
        train=answers(48, seed=1),
        heldout=answers(20, seed=2),
        config={"epochs": 4, "lr_schedule": "constant"},
    )
    manifest = finish(folder, "sft")
    metrics = manifest["metrics"]
    assert metrics["heldout_answers"] == 20
    assert metrics["heldout_loss"] < 0.6 * metrics["heldout_loss_before"]
    assert metrics["heldout_perplexity_before"] > 5 * metrics["heldout_perplexity"]
    assert manifest["kind"] == "adapter" and manifest["answers"] == 48
    assert manifest["compute"]["tokens"]["reference"] == 0
    assert events(folder)[-1]["step"] == events(folder)[-1]["total"] == 24
    assert "trained with SFT" in (folder / "artifact" / "README.md").read_text()


def test_a_cut_answer_is_learned_without_its_end(tmp_path, base, monkeypatch):
    """Half of the answers were cut: the end comes behind the others alone, and no prompt is learned."""
    from trl.trainer.sft_trainer import SFTTrainer

    rows = [{**row, "ended": number % 2 == 0} for number, row in enumerate(answers(16, seed=1))]
    seen = []
    first = SFTTrainer.__init__

    def look(self, *args, **kwargs):
        seen.append((kwargs["train_dataset"], kwargs["processing_class"].eos_token_id))
        first(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "__init__", look)
    finish(build_run(tmp_path / "r", base, method="sft", train=rows, config={"max_steps": 1}), "sft")
    [(dataset, end)] = seen
    assert sum(row["labels"][-1] == end for row in dataset) == 8
    assert all(end not in row["labels"][:-1] for row in dataset)  # the prompts hold ends of their own
    assert all(row["input_ids"].count(end) >= 2 for row in dataset)


def test_too_few_answers_are_refused_in_a_sentence(tmp_path, base):
    folder = build_run(tmp_path / "r", base, method="sft", train=answers(3, seed=1))
    assert run(folder, "sft") == 65
    assert "SFT needs at least 16 answers" in events(folder)[-1]["message"]
