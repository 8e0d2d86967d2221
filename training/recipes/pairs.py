"""Preference pairs: read, tokenise, make batches, and score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl.trainer.dpo_trainer import DataCollatorForPreference

from training.recipes.reference import as_reference
from training.recipes.rows import Row, read_format, to_the_end, tokenize
from training.recipes.rundir import BadData

ANSWERS = {"chosen": "chosen_ended", "rejected": "rejected_ended"}


def read_pairs(dataset: Path, part: str, tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> list[Row]:
    """Tokenised pairs of one part. Raises BadData for rows that no pair can be made of."""
    rows = read_format(dataset, part, "preference")
    for number, row in enumerate(rows, start=1):
        if row["chosen"] == row["rejected"]:
            raise BadData(f"row {number} of {part} has the same answer as chosen and as rejected")
    return tokenize(rows, tokenizer, end_ids, ANSWERS)


@dataclass
class EndAwareCollator(DataCollatorForPreference):
    """TRL's collator over answers that end where they really ended.

    TRL tokenises the rows itself and puts an end (and what the template writes after it) behind every answer.
    Examples come in with `chosen_ids`, `rejected_ids` and the `*_ended` flags.
    """

    end_ids: frozenset[int] = frozenset()

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Batch of (2 B, T): the chosen half first, padded to the longest."""
        ended = []
        for example in examples:
            new = dict(example)
            for side in ("chosen", "rejected"):
                new[f"{side}_ids"] = to_the_end(
                    example[f"{side}_ids"], set(self.end_ids), keep_end=example[f"{side}_ended"]
                )
            ended.append(new)
        return super().torch_call(ended)


def answer_logps(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(answer | prompt), summed over the answer's tokens, one a sequence: (B,), nats.

    The batch holds `input_ids`, `attention_mask` and `completion_mask`, each (B, T).
    """
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits = output.logits[:, :-1]  # (B, T - 1, V)
    labels = batch["input_ids"][:, 1:]
    mask = batch["completion_mask"][:, 1:].bool()
    # Only the answers' positions are normalised: the vocabulary is wide, the prompts are half of the tokens.
    picked = torch.log_softmax(logits[mask].float(), dim=-1).gather(1, labels[mask].unsqueeze(1)).squeeze(1)
    logps = torch.zeros_like(mask, dtype=torch.float32)
    logps[mask] = picked
    return logps.sum(dim=1)


def preference_accuracy(
    model: Any, rows: list[Row], collator: EndAwareCollator, batch_size: int, device: torch.device
) -> dict[str, float]:
    """How often DPO's implicit reward puts chosen over rejected, counted by example; a tie is half.

    reward = log p_policy - log p_reference of an answer, so before training every pair is a tie: 0.5.
    `rows` are tokenised; `model` is a PEFT model. Also the mean margin, in nats.
    """
    margins: list[float] = []
    model.eval()
    with torch.no_grad():
        for batch in _batches(rows, collator, batch_size, device):
            policy = answer_logps(model, batch)
            with as_reference(model):
                reference = answer_logps(model, batch)
            chosen, rejected = (policy - reference).chunk(2)
            margins += (chosen - rejected).tolist()
    return {
        "pairs": len(margins),
        "accuracy": share_above_zero(margins),
        "margin": sum(margins) / len(margins),
    }


def share_above_zero(margins: list[float]) -> float:
    """How many of the margins are positive; one of zero is half."""
    return sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins) / len(margins)


def longest(row: Row) -> int:
    """Tokens of a tokenised row: prompt and longer answer."""
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _batches(
    rows: list[Row], collator: EndAwareCollator, batch_size: int, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    ordered = sorted(rows, key=longest)
    for start in range(0, len(ordered), batch_size):
        batch = collator(ordered[start : start + batch_size])
        yield {name: tensor.to(device) for name, tensor in batch.items()}
