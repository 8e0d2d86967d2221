"""A second stage goes on with the first one's adapter: it keeps what that learned, and is held to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.artifact import read_manifest, verify
from tests.training.recipes.runs import (
    answers,
    build_run,
    events,
    finish,
    labels,
    letter_pairs,
    pairs,
    prompts,
    run,
)
from training.recipes.rundir import Run

pytestmark = pytest.mark.model


@pytest.fixture(scope="session")
def imitated(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The artifact of an SFT run."""
    folder = build_run(
        tmp_path_factory.mktemp("start") / "r",
        base,
        method="sft",
        train=answers(48, seed=1),
        config={"epochs": 4, "lr_schedule": "constant"},
    )
    finish(folder, "sft")
    return folder / "artifact"


def nats(base: Path, adapter: Path) -> float:
    """Nats a token of answers that nobody trained on, by nothing but transformers, PEFT and the files."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    found = []
    for row in answers(16, seed=5):
        given = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        ids = given + tokenizer(row["completion"][0]["content"])["input_ids"]
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([ids])).logits[0, len(given) - 1 : -1].log_softmax(-1)
        found.append(-float(logps.gather(1, torch.tensor(ids[len(given) :])[:, None]).mean()))
    return sum(found) / len(found)


@pytest.mark.parametrize(("method", "rows"), [("dpo", pairs), ("kto", labels)])
def test_a_stage_keeps_what_the_one_before_learned_and_learns_more(tmp_path, base, imitated, method, rows):
    given: dict[str, Any] = {"train": rows(48, seed=3), "heldout": rows(24, seed=4), "method": method}
    alone = build_run(tmp_path / "alone", base, **given)
    second = build_run(tmp_path / "second", base, versions={"start": imitated}, **given)
    finish(alone, method)
    manifest = finish(second, method)
    assert manifest["start"] == read_manifest(imitated)["digest"]
    assert manifest["metrics"]["heldout_accuracy"] > 0.9, "it learned, measured from where it began"
    assert manifest["compute"]["tokens"]["reference"] > 0
    assert nats(base, second / "artifact") < nats(base, imitated) + 0.5, (
        "it still answers as it had learned to"
    )
    assert nats(base, second / "artifact") < nats(base, alone / "artifact") - 1
    assert {path.name for path in (second / "artifact").iterdir()} == {
        path.name for path in imitated.iterdir()
    }, "one adapter, and no copy of the reference"


@pytest.mark.parametrize(
    ("method", "rows", "goes_on"),
    [
        ("dpo", pairs, True),
        pytest.param("sft", answers, False, marks=pytest.mark.slow),
        pytest.param("kto", labels, False, marks=pytest.mark.slow),
        pytest.param("reward", pairs, False, marks=pytest.mark.slow),
    ],
)
def test_it_goes_on_from_its_own_checkpoint_after_a_stop(
    tmp_path, base, imitated, monkeypatch, method, rows, goes_on
):
    given: dict[str, Any] = {"method": method, "train": rows(32, seed=3)}
    given["versions"] = {"start": imitated} if goes_on else {}
    whole, halted = (build_run(tmp_path / name, base, **given) for name in ("whole", "halted"))
    finish(whole, method)
    tell = Run.emit

    def stop_after_two_steps(self, event, **facts):
        tell(self, event, **facts)
        if event == "progress" and facts["step"] == 2:
            self.stop.set()  # what SIGTERM does

    with monkeypatch.context() as patch:
        patch.setattr(Run, "emit", stop_after_two_steps)
        assert run(halted, method) == 75
    finish(halted, method)
    begun = [event["step"] for event in events(halted) if event["event"] == "started"]
    assert (begun[0], begun[1] in (2, 3)) == (0, True)
    one, other = verify(whole / "artifact"), verify(halted / "artifact")
    assert one["digest"] == other["digest"]
    assert one["compute"]["tokens"] == other["compute"]["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rloo", "ppo"])
def test_answers_against_a_reward_model_begin_where_the_adapter_stands(
    tmp_path, letters_base, vowel_judge, method
):
    shown = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in letter_pairs(48, seed=7)]
    first = build_run(tmp_path / "first", letters_base, method="sft", train=shown, config={"epochs": 2})
    finish(first, "sft")
    second = build_run(
        tmp_path / "second",
        letters_base,
        method=method,
        train=prompts(24, seed=1),
        heldout=prompts(24, seed=2),
        config={"epochs": 4, "gradient_accumulation": 4 if method == "rloo" else 1, "max_new_tokens": 12},
        versions={"reward": vowel_judge, "start": first / "artifact"},
    )
    metrics = finish(second, method)["metrics"]
    assert metrics["heldout_reward"] > metrics["heldout_reward_before"]
    kls = [event["metrics"]["kl"] for event in events(second) if event["event"] == "progress"]
    assert abs(kls[0]) < 0.05 < abs(metrics["heldout_kl"]), "its reference is where it began"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"lora_r": 4}, "lora_r is 4, and versions.start was made with 16"),
        ({"last_layers": 1}, "last_layers"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(tmp_path, base, imitated, config, says):
    folder = build_run(tmp_path / "r", base, config=config, versions={"start": imitated})
    assert run(folder) == 65
    assert says in events(folder)[-1]["message"]
