"""Preference pairs: read, check, tokenise, put in order, make batches, and score.

A row: `prompt` and `chosen` and `rejected` (lists of {"role", "content"}), `prompt_id`, `feedback_ids`, and,
where the compiler knows it, `chosen_ended` and `rejected_ended`: false for an answer that was cut at its
token limit. A cut answer must not be taught an end that it never had.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerBase
from trl.trainer.dpo_trainer import DataCollatorForPreference

from training.recipes.rundir import BadData

Row = dict[str, Any]


def read_rows(dataset: Path, part: str) -> list[Row]:
    """All rows of `part`-*.parquet, in the order of the shards. Raises BadData for unusable ones."""
    rows: list[Row] = []
    for shard in sorted(dataset.glob(f"{part}-*.parquet")):
        try:
            rows += pq.read_table(shard).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise BadData(f"{shard.name} cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        _check(row, f"row {number} of {part}")
        row.setdefault("chosen_ended", True)
        row.setdefault("rejected_ended", True)
    return rows


def _check(row: Row, where: str) -> None:
    for column in ("prompt", "chosen", "rejected"):
        messages = row.get(column)
        if not isinstance(messages, list) or not messages:
            raise BadData(f"{where} has no messages in `{column}`")
        for message in messages:
            if not isinstance(message, dict) or not message.get("role"):
                raise BadData(f"{where} has a message without a role in `{column}`")
            if not isinstance(message.get("content"), str) or not message["content"].strip():
                raise BadData(f"{where} has an empty message in `{column}`")
    if row["chosen"] == row["rejected"]:
        raise BadData(f"{where} has the same answer as chosen and as rejected")


def tokenize(rows: list[Row], tokenizer: PreTrainedTokenizerBase, end_ids: set[int]) -> list[Row]:
    """Rows with `prompt_ids`, `chosen_ids`, `rejected_ids`: exactly the tokens that serving reads and makes.

    An answer that ended keeps its end-of-turn token and nothing after it; a cut one loses that token too.
    """
    tokenized = []
    for row in rows:
        prompt_ids = _template(tokenizer, row["prompt"], add_generation_prompt=True)
        new = {**row, "prompt_ids": prompt_ids}
        for side in ("chosen", "rejected"):
            ids = _template(tokenizer, row["prompt"] + row[side], add_generation_prompt=False)
            if ids[: len(prompt_ids)] != prompt_ids:
                raise BadData("the chat template of the base does not continue a prompt with its answer")
            new[f"{side}_ids"] = to_the_end(ids[len(prompt_ids) :], end_ids, keep_end=row[f"{side}_ended"])
        tokenized.append(new)
    return tokenized


def to_the_end(ids: list[int], end_ids: set[int], *, keep_end: bool) -> list[int]:
    """`ids` up to their last end-of-turn token, with or without it; templates write more after it."""
    ends = [position for position, token in enumerate(ids) if token in end_ids]
    return ids[: ends[-1] + keep_end] if ends else ids


def training_order(lengths: list[int], batch_size: int, seed: int, *, group_by_length: bool) -> list[int]:
    """Indices in the order of training: batches of like length, the batches shuffled, the odd one last."""
    rng = random.Random(seed)  # noqa: S311  reproducible, not secret
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if not group_by_length:
        return order
    order.sort(key=lambda index: lengths[index])  # stable: equal lengths stay shuffled
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    full = [batch for batch in batches if len(batch) == batch_size]
    rng.shuffle(full)
    return [index for batch in full + batches[len(full) :] for index in batch]


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
    """log p(answer | prompt), summed over the answer's tokens, one a sequence: (2 B,), nats."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits = output.logits[:, :-1]  # (2 B, T - 1, V)
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

    reward = log p_policy - log p_base of an answer, so before training every pair is a tie: 0.5.
    `rows` are tokenised; `model` is a PEFT model whose base is the reference. Also the mean margin, in nats.
    """
    margins: list[float] = []
    model.eval()
    with torch.no_grad():
        for batch in _batches(rows, collator, batch_size, device):
            policy = answer_logps(model, batch)
            with model.disable_adapter():
                reference = answer_logps(model, batch)
            chosen, rejected = (policy - reference).chunk(2)
            margins += (chosen - rejected).tolist()
    right = sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins)
    return {"pairs": len(margins), "accuracy": right / len(margins), "margin": sum(margins) / len(margins)}


def count_tokens(rows: list[Row], max_length: int) -> int:
    """Tokens of both sides of all rows, as trained on: prompt and answer, cut at `max_length`."""
    return sum(
        min(max_length, len(row["prompt_ids"]) + len(row[f"{side}_ids"]))
        for row in rows
        for side in ("chosen", "rejected")
    )


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


def _template(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=add_generation_prompt
    )
    return ids
