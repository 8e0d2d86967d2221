"""Unpaired labels: read, tokenise, make batches, and judge what was learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from training.recipes.rows import Row, read_format, to_the_end, tokenize


def read_labels(dataset: Path, part: str, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> list[Row]:
    """Tokenised rows of one part: `prompt_ids`, `completion_ids`, `label` (true is wanted), `ended`."""
    return tokenize(read_format(dataset, part, "unpaired"), tokenizer, end_ids, {"completion": "ended"})


def count_labels(rows: list[Row]) -> dict[str, int]:
    wanted = sum(row["label"] for row in rows)
    return {"wanted": wanted, "unwanted": len(rows) - wanted}


@dataclass
class EndAwareUnpairedCollator(DataCollatorForUnpairedPreference):
    """TRL's collator over answers that end where they really ended (see EndAwareCollator in pairs.py).

    For the KL it pairs each prompt with the answer of the row before it in the batch.
    """

    end_ids: frozenset[int] = frozenset()

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        ended = []
        for number, example in enumerate(examples):
            new = dict(example)
            flags = {"completion_ids": example["ended"], "KL_completion_ids": examples[number - 1]["ended"]}
            for column in flags.keys() & example.keys():
                new[column] = to_the_end(example[column], set(self.end_ids), keep_end=flags[column])
            ended.append(new)
        return super().torch_call(ended)


def ranking_accuracy(wanted: list[float], unwanted: list[float]) -> float:
    """How often a wanted answer's value is above an unwanted one's, over all pairs; a tie is half (AUC)."""
    better = torch.tensor(wanted).unsqueeze(1)  # (W, 1)
    worse = torch.tensor(unwanted).unsqueeze(0)  # (1, U)
    return float(((better > worse).double() + 0.5 * (better == worse).double()).mean())
