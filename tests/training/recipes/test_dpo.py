"""The DPO recipe on a tiny model: it learns, it tells, it stops and goes on, and it refuses what is wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from inference.artifact import verify, write_manifest
from tests.training.recipes.runs import build_run, events, pairs, run

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base):
    """One run that went through, shared by the tests that only look at it."""
    folder = build_run(tmp_path_factory.mktemp("run") / "r", base, heldout=pairs(20, seed=2))
    assert run(folder) == 0
    return folder


def test_a_learnable_taste_is_learned(finished):
    metrics = verify(finished / "artifact", servable=True)["metrics"]
    assert metrics["heldout_accuracy_before"] == 0.5
    assert metrics["heldout_accuracy"] > 0.9
    assert metrics["heldout_pairs"] == 20


def test_the_update_outlives_a_merge_into_bf16(finished):
    metrics = verify(finished / "artifact")["metrics"]
    assert metrics["relative_update"] > 1e-3
    assert metrics["bf16_merge_error"] < 0.5


def test_progress_is_told_step_by_step(finished):
    told = events(finished)
    assert [event["event"] for event in told if event["event"] != "checkpoint"] == [
        "started",
        *["progress"] * 6,
        "finished",
    ]
    steps = [event for event in told if event["event"] == "progress"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    assert {event["total"] for event in steps} == {6}
    assert steps[-1]["metrics"]["loss"] < steps[0]["metrics"]["loss"]
    assert steps[-1]["seconds_left"] == 0
    assert (finished / "heartbeat").exists()


def test_the_artifact_holds_three_files_and_no_path_of_this_machine(finished, base):
    artifact = finished / "artifact"
    names = {path.name for path in artifact.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "README.md", "manifest.json"}
    for name in ("adapter_config.json", "README.md", "manifest.json"):
        assert str(base.parent) not in (artifact / name).read_text()
    assert (
        json.loads((artifact / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-base"
    )


def test_tokens_are_counted_without_padding(finished, base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    real = 0
    for row in pairs(48, seed=1):
        for side in ("chosen", "rejected"):
            # TRL's template writes a line break behind the end of turn; it is not trained on.
            real += len(tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=False)) - 1
    compute = verify(finished / "artifact")["compute"]
    assert compute["tokens"]["train"] == compute["tokens"]["reference"] == real
    w = compute["weights"]
    assert w["matrices"] == w["trained_upwards"] == 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3) + 384 * 64
    each = 4 * w["matrices"] + 6 * w["adapter"] + 2 * w["matrices"]
    assert compute["flops"] == each * real + 2 * w["matrices"] * compute["tokens"]["heldout"]


def test_a_second_start_changes_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert run(finished) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_the_same_run_gives_the_same_weights(finished, tmp_path, base):
    again = build_run(tmp_path / "again", base, heldout=pairs(20, seed=2))
    # Another process with another order of sets: the digest must not know.
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "training.recipes.dpo", str(again)], env=environment, check=True)
    assert verify(again / "artifact")["digest"] == verify(finished / "artifact")["digest"]


def test_sigterm_writes_a_checkpoint_and_the_next_start_goes_on(tmp_path, base):
    whole = build_run(tmp_path / "whole", base, config={"epochs": 4, "save_steps": 1000})
    assert run(whole) == 0
    halted = build_run(tmp_path / "halted", base, config={"epochs": 4, "save_steps": 1000})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "training.recipes.dpo", str(halted)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 180  # a busy machine imports torch slowly
    while '"step": 2,' not in _text(halted / "events.jsonl"):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert child.wait(120) == 75
    assert events(halted)[-1]["cause"] == "interrupted"
    assert not (halted / "artifact").exists()
    stopped_at = events(halted)[-2]["step"]
    assert 2 <= stopped_at < 24
    # A checkpoint that was cut off while it was written is not taken for one.
    torn = halted / "checkpoints" / "checkpoint-23"
    shutil.copytree(halted / "checkpoints" / f"checkpoint-{stopped_at}", torn)
    (torn / "complete.json").unlink()

    assert run(halted) == 0
    started = [event["step"] for event in events(halted) if event["event"] == "started"]
    assert started == [0, stopped_at]
    one, other = verify(whole / "artifact"), verify(halted / "artifact")
    assert one["digest"] == other["digest"]
    assert one["compute"]["tokens"] == other["compute"]["tokens"]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_flipped_byte_in_the_dataset_is_a_data_failure(tmp_path, base):
    folder = build_run(tmp_path / "r", base)
    shard = folder / "dataset" / "train-00000.parquet"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    assert run(folder) == 65
    [failed] = events(folder)
    assert failed["event"] == "failed" and failed["cause"] == "data"
    assert "train-00000.parquet" in failed["message"]
    assert not (folder / "artifact").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"chosen": [{"role": "assistant", "content": "  "}]},
            "row 3 of train has an empty message in `chosen`",
        ),
        ({"prompt": []}, "row 3 of train has no messages in `prompt`"),
        ({"chosen": [], "rejected": []}, "row 3 of train has no messages in `chosen`"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(tmp_path, base, change, says):
    rows = pairs(24, seed=3)
    rows[2].update(change)
    folder = build_run(tmp_path / "r", base, train=rows)
    assert run(folder) == 65
    assert events(folder)[-1]["message"] == says


def test_too_few_pairs_are_refused_in_a_sentence(tmp_path, base):
    folder = build_run(tmp_path / "r", base, train=pairs(3, seed=1))
    assert run(folder) == 65
    assert "at least 16 pairs" in events(folder)[-1]["message"]


def test_nan_ends_the_run_as_diverged(tmp_path, base):
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(base, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    write_manifest(broken, kind="base")
    folder = build_run(tmp_path / "r", broken)
    assert run(folder) == 72
    assert events(folder)[-1]["cause"] == "diverged"
    assert not (folder / "artifact").exists()


def test_another_base_than_the_named_one_is_refused(tmp_path, base):
    folder = build_run(tmp_path / "r", base)
    spec = json.loads((folder / "run.json").read_text())
    spec["base"]["digest"] = "sha256:" + "0" * 64
    (folder / "run.json").write_text(json.dumps(spec))
    assert run(folder) == 65
    assert events(folder)[-1]["cause"] == "base"


def test_a_misspelt_hyperparameter_is_refused_with_a_hint(tmp_path, base):
    folder = build_run(tmp_path / "r", base, config={"learningrate": 1e-4})
    assert run(folder) == 65
    failed = events(folder)[-1]
    assert failed["cause"] == "config"
    assert "Did you mean learning_rate?" in failed["message"]


def test_only_the_last_layers_are_trained_when_asked(tmp_path, base):
    folder = build_run(tmp_path / "r", base, config={"last_layers": 1})
    assert run(folder) == 0
    from safetensors import safe_open

    with safe_open(folder / "artifact" / "adapter_model.safetensors", "pt") as file:
        assert file.keys() and all(".layers.1." in name for name in file.keys())  # noqa: SIM118  no mapping
    weights = verify(folder / "artifact")["compute"]["weights"]
    assert weights["trained_upwards"] < weights["matrices"]


def test_a_cut_answer_is_not_taught_an_end(base):
    from transformers import AutoTokenizer

    from training.recipes.pairs import ANSWERS, EndAwareCollator
    from training.recipes.rows import tokenize

    tokenizer = AutoTokenizer.from_pretrained(base)
    end = tokenizer.eos_token_id
    rows = [{**row, "chosen_ended": True, "rejected_ended": False} for row in pairs(2, seed=1)]
    rows = tokenize(rows, tokenizer, {end}, ANSWERS)
    assert all(row["chosen_ids"][-1] == end and end not in row["rejected_ids"] for row in rows)
    # TRL tokenises by itself and adds the end and a line break; the collator takes both back.
    as_trl = [
        {**row, **{f"{side}_ids": [*row[f"{side}_ids"], end, 10] for side in ("chosen", "rejected")}}
        for row in tokenize([{**row, "chosen_ended": False} for row in rows], tokenizer, {end}, ANSWERS)
    ]
    for row in as_trl:
        row["chosen_ended"] = True
    batch = EndAwareCollator(pad_token_id=0, end_ids=frozenset({end}))(as_trl)
    answers = [ids[mask.bool()].tolist() for ids, mask in zip(*_answers(batch), strict=True)]
    assert answers[:2] == [row["chosen_ids"] for row in rows]
    assert answers[2:] == [row["rejected_ids"] for row in rows]


def _answers(batch):
    return batch["input_ids"], batch["completion_mask"]


# --- the other terms of the loss -------------------------------------------------------------------------
def losses(folder: Path, base: Path, rows: list[Any], **config: Any) -> list[float]:
    """Of two steps over the same two batches."""
    built = build_run(folder, base, train=rows, config={"epochs": 1, "precision": "fp32", **config})
    assert run(built) == 0
    return [event["metrics"]["loss"] for event in events(built) if event["event"] == "progress"]


def sided(*, further: int) -> list[Any]:
    """Pairs of as many tokens a side, and so many more words behind the rejected one."""
    more = ["water"] * further
    return [
        {
            **row,
            "chosen": [{"role": "assistant", "content": "So egg egg system system"}],
            "rejected": [{"role": "assistant", "content": " ".join(["So system system egg egg", *more])}],
        }
        for row in pairs(16, seed=1)
    ]


def test_the_sft_term_is_the_chosen_answers_own_likelihood(tmp_path, base):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = pairs(16, seed=1)
    first = losses(tmp_path / "r", base, rows, sft_weight=0.5, batch_size=16)[0]
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    nats, count = 0.0, 0
    for row in rows:
        given = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole: Any = tokenizer.apply_chat_template(row["prompt"] + row["chosen"], return_dict=False)
        ids = whole[:-1]  # the template's line break is not trained on
        with torch.no_grad():
            logps = (
                model(input_ids=torch.tensor([ids])).logits[0, len(given) - 1 : -1].float().log_softmax(-1)
            )
        said = torch.tensor(ids[len(given) :])
        nats -= float(logps.gather(1, said[:, None]).sum())
        count += len(said)
    # Before the first step both rewards are 0, so that DPO's own part is log 2.
    assert first == pytest.approx(math.log(2) + 0.5 * nats / count, rel=1e-2)


@pytest.mark.slow
def test_a_length_weight_looks_away_from_what_only_the_longer_answer_has(tmp_path, base):
    same, other = sided(further=0), sided(further=6)
    plain, desensitised = {"length_weight": 1.0}, {"length_weight": 0.0}
    assert losses(tmp_path / "a", base, same, **plain) == losses(tmp_path / "b", base, same, **desensitised)
    whole = losses(tmp_path / "c", base, other, **plain)
    shared = losses(tmp_path / "d", base, other, **desensitised)
    assert whole[0] == shared[0] == pytest.approx(math.log(2), abs=1e-4)
    assert shared[1] > whole[1], "the longer answer's rest no longer lowers its likelihood"
