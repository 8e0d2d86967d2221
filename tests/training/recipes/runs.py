"""Run directories for the recipes' tests: a tiny model, and pairs with a taste that can be learned."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inference.artifact import read_manifest, write_manifest
from training.recipes.config import DpoConfig

# What the raters of these tests like and dislike; which words come, and how many, is chance.
LIKED = ["Paris", "egg", "water", "blue", "light", "short", "waves"]
DISLIKED = ["minutes", "system", "neighbour", "assistant", "thank", "while", "boiling"]
CONFIG: dict[str, Any] = {"batch_size": 8, "learning_rate": 5e-3, "warmup_ratio": 0.0, "max_length": 128}


def pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """So many rows as the compiler writes them."""
    dice = random.Random(seed)

    def words(of: list[str]) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": " ".join(dice.choices(of, k=dice.randint(4, 9))) + "."}]

    return [
        {
            "prompt": [{"role": "user", "content": f"What is the {dice.choice(LIKED)} of {number}?"}],
            "chosen": words(LIKED),
            "rejected": words(DISLIKED),
            "prompt_id": f"p{number}",
            "feedback_ids": [f"f{number}"],
        }
        for number in range(count)
    ]


def build_run(
    folder: Path,
    base: Path,
    *,
    train: list[dict[str, Any]] | None = None,
    heldout: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """A run directory as the supervisor would make it."""
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(train or pairs(48, seed=1)), dataset / "train-00000.parquet")
    if heldout:
        pq.write_table(pa.Table.from_pylist(heldout), dataset / "heldout-00000.parquet")
    manifest = write_manifest(dataset, kind="dataset")
    spec = {
        "run": "demo/3",
        "id": "0199f0a0-0000-7000-8000-000000000003",
        "method": "dpo",
        "base": {"path": str(base), "digest": read_manifest(base)["digest"]},
        "dataset": {"digest": manifest["digest"]},
        "config": {**DpoConfig().to_dict(), **CONFIG, **(config or {})},
        "seed": 0,
        "resources": {"device": "cpu", "threads": 1},
    }
    (folder / "run.json").write_text(json.dumps(spec))
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    """All events of a run, oldest first."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
