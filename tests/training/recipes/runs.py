"""Run directories for the recipes' tests: a tiny model, and data with a taste that can be learned."""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inference.artifact import read_manifest, verify, write_manifest
from training.recipes.config import CONFIGS
from training.recipes.rundir import run_recipe

# What the raters of these tests like and dislike; which words come, and how many, is chance.
LIKED = ["Paris", "egg", "water", "blue", "light", "short", "waves"]
DISLIKED = ["minutes", "system", "neighbour", "assistant", "thank", "while", "boiling"]
DEVICE = os.environ.get("RATCHET_TEST_DEVICE", "cpu")  # `make test-gpu` says cuda
VOWELS = "aeiou"
SIGNS = [chr(code) for code in range(33, 127) if chr(code) not in VOWELS]
CONFIG: dict[str, Any] = {"batch_size": 8, "learning_rate": 5e-3, "warmup_ratio": 0.0, "max_length": 128}


def words(dice: random.Random, of: list[str]) -> list[dict[str, str]]:
    """An answer of four to nine of these words."""
    return [{"role": "assistant", "content": " ".join(dice.choices(of, k=dice.randint(4, 9))) + "."}]


def prompt(dice: random.Random, number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What is the {dice.choice(LIKED)} of {number}?"}]


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """So many rows as the compiler writes them."""
    dice = random.Random(seed)
    return [
        {
            "prompt": prompt(dice, number),
            "chosen": words(dice, LIKED),
            "rejected": words(dice, DISLIKED),
            "prompt_id": f"p{number}",
            "feedback_ids": [f"f{number}"],
        }
        for number in range(count)
    ]


def answers(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the format sft: what people would have written."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "feedback_ids": row["feedback_ids"]}
        for row in pairs(count, seed)
    ]


def labels(count: int, seed: int, *, wanted_of_four: int = 2) -> list[dict[str, Any]]:
    """Rows of the format unpaired, so many of four wanted."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen" if number % 4 < wanted_of_four else "rejected"],
            "label": number % 4 < wanted_of_four,
            "feedback_ids": row["feedback_ids"],
        }
        for number, row in enumerate(pairs(count, seed))
    ]


def letter_pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Answers of random signs, as an untrained model makes them; the one with more vowels is liked."""
    dice = random.Random(seed)

    def letters(vowels: float) -> list[dict[str, str]]:
        signs = [dice.choice(VOWELS if dice.random() < vowels else SIGNS) for _ in range(dice.randint(8, 14))]
        return [{"role": "assistant", "content": "".join(signs)}]

    return [
        {"prompt": row["prompt"], "chosen": letters(dice.uniform(0.3, 0.9)), "rejected": letters(0)}
        for row in prompts(count, seed)
    ]


def prompts(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the format prompts."""
    dice = random.Random(seed)
    return [{"prompt": [{"role": "user", "content": f"{dice.choice(LIKED)} {n}?"}]} for n in range(count)]


def vowel_share(texts: list[str]) -> float:
    """The true taste: how many of all signs are vowels."""
    return sum(sign in VOWELS for text in texts for sign in text) / max(1, sum(map(len, texts)))


def said(base: Path, adapter: Path | None) -> list[str]:
    """Answers to prompts that no run has seen, by nothing but transformers, PEFT and the files."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    texts = [
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in prompts(40, seed=3)
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    torch.manual_seed(0)
    made = model.generate(**batch, do_sample=True, top_k=0, max_new_tokens=12)
    answers: list[str] = tokenizer.batch_decode(
        made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return answers


def build_run(
    folder: Path,
    base: Path,
    *,
    method: str = "dpo",
    train: list[dict[str, Any]] | None = None,
    heldout: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    versions: dict[str, Path] | None = None,
    parts: dict[str, list[dict[str, Any]]] | None = None,
) -> Path:
    """A run directory as the supervisor would make it. `versions` are folders of artifacts, by role.

    `parts` are the dataset's parts by name, in place of train and heldout.
    """
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    parts = parts or {"train": train or pairs(48, seed=1), "heldout": heldout or []}
    for name, rows in parts.items():
        if rows:
            pq.write_table(pa.Table.from_pylist(rows), dataset / f"{name}-00000.parquet")
    manifest = write_manifest(dataset, kind="dataset")
    kind = CONFIGS[method]
    known = {one.name for one in fields(kind)}
    shared = {name: value for name, value in CONFIG.items() if name in known}
    spec = {
        "run": "demo/3",
        "id": "0199f0a0-0000-7000-8000-000000000003",
        "method": method,
        "base": {"path": str(base), "digest": read_manifest(base)["digest"]},
        "dataset": {"digest": manifest["digest"]},
        "config": {**kind().to_dict(), **shared, **(config or {})},
        "seed": 0,
        "resources": {"device": DEVICE, "threads": 1},
        "versions": {
            role: {"path": str(path), "digest": read_manifest(path)["digest"]}
            for role, path in (versions or {}).items()
        },
    }
    (folder / "run.json").write_text(json.dumps(spec))
    return folder


def run(folder: Path, method: str = "dpo") -> int:
    """The recipe in this process; a shell's signal handling is put back."""
    module = importlib.import_module(f"training.recipes.{method}")
    recipe = getattr(module, method if method in ("score", "evaluate") else "train")
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run_recipe(folder, method, recipe)
    finally:
        signal.signal(signal.SIGTERM, before)


def finish(folder: Path, method: str) -> dict[str, Any]:
    """Run it to its end and return the manifest of what it made."""
    assert run(folder, method) == 0, events(folder)[-1]
    return verify(folder / "artifact")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """What a run of score or evaluate made, row by row."""
    rows: list[dict[str, Any]] = pq.read_table(folder / "artifact" / "rows.parquet").to_pylist()
    return rows


def events(folder: Path) -> list[dict[str, Any]]:
    """All events of a run, oldest first."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
