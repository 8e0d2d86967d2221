"""The reward recipe on a tiny model: it learns who is preferred, and its score outlives a reload."""

from __future__ import annotations

import math

import pytest

from tests.training.recipes.runs import build_run, events, finish, pairs, run

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base):
    folder = build_run(tmp_path_factory.mktemp("run") / "r", base, method="reward", heldout=pairs(20, seed=2))
    return folder, finish(folder, "reward")


def test_held_out_preferences_are_foretold(finished):
    _, manifest = finished
    metrics = manifest["metrics"]
    assert manifest["kind"] == "reward"
    assert metrics["heldout_accuracy_before"] == 0.5
    assert metrics["heldout_accuracy"] > 0.9
    assert abs(metrics["score_mean"]) < metrics["heldout_margin"]  # centred
    assert -1 <= metrics["length_correlation"] <= 1


def test_a_score_outlives_the_process_that_made_it(finished, base):
    """Read by nothing but transformers, PEFT and the files: the liked words score higher, by as much."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, manifest = finished
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.bfloat16)
    model.score.float()
    model.score.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    model = PeftModel.from_pretrained(model, folder / "artifact").eval()
    margins = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for row in pairs(20, seed=2):
            scores = []
            for side in ("chosen", "rejected"):
                # The template writes a line break behind the end of turn; the score is read at the end.
                ids = tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=False)[:-1]
                scores.append(model(input_ids=torch.tensor([ids])).logits.item())
            margins.append(scores[0] - scores[1])
    assert sum(margin > 0 for margin in margins) / 20 == manifest["metrics"]["heldout_accuracy"]
    assert sum(margins) / 20 == pytest.approx(manifest["metrics"]["heldout_margin"], abs=0.05)


def test_a_margin_asks_for_a_lead(tmp_path, base):
    """At first all scores are 0: the loss is -log sigmoid(-margin), a mean over the batch."""
    rows = [{**row, "margin": number % 2 * 6.0} for number, row in enumerate(pairs(48, seed=1))]
    config = {"batch_size": 48, "epochs": 2}
    for use_margins, loss in ((True, (math.log(2) + math.log1p(math.exp(6))) / 2), (False, math.log(2))):
        folder = tmp_path / str(use_margins)
        build_run(folder, base, method="reward", train=rows, config={**config, "use_margins": use_margins})
        finish(folder, "reward")
        first = next(event for event in events(folder) if event["event"] == "progress")
        assert first["metrics"]["loss"] == pytest.approx(loss, abs=1e-3)


def test_pairs_that_are_all_too_long_are_refused_in_a_sentence(tmp_path, base):
    folder = build_run(tmp_path / "r", base, method="reward", config={"max_length": 16})
    assert run(folder, "reward") == 65
    assert "Every pair is longer than max_length 16" in events(folder)[-1]["message"]
