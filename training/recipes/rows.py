"""Rows of a dataset: read, check, tokenise, put in order. `columns.py` says what they hold."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from training.recipes.columns import COLUMNS, MESSAGES
from training.recipes.rundir import BadData

Row = dict[str, Any]


def read_rows(dataset: Path, part: str, columns: Sequence[str]) -> list[Row]:
    """All rows of `part`-*.parquet, in the order of the shards. Raises BadData for unusable ones."""
    rows: list[Row] = []
    for shard in sorted(dataset.glob(f"{part}-*.parquet")):
        try:
            rows += pq.read_table(shard).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise BadData(f"{shard.name} cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        _check(row, columns, f"row {number} of {part}")
    return rows


def read_format(dataset: Path, part: str, name: str) -> list[Row]:
    """Rows of the dataset format `name`, such as sft."""
    return read_rows(dataset, part, COLUMNS[name])


def _check(row: Row, columns: Sequence[str], where: str) -> None:
    for column in columns:
        if column in MESSAGES:
            _check_messages(row.get(column), column, where)
        elif column == "label" and not isinstance(row.get(column), bool):
            raise BadData(f"{where} has no true or false in `label`")
        elif column in ("text", "id") and not (isinstance(row.get(column), str) and row[column].strip()):
            raise BadData(f"{where} has nothing in `{column}`")


def _check_messages(messages: Any, column: str, where: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise BadData(f"{where} has no messages in `{column}`")
    for message in messages:
        if not isinstance(message, dict) or not message.get("role"):
            raise BadData(f"{where} has a message without a role in `{column}`")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise BadData(f"{where} has an empty message in `{column}`")


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, str]]) -> list[int]:
    """Exactly the tokens that serving reads before it answers."""
    return _template(tokenizer, prompt, add_generation_prompt=True)


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[dict[str, str]],
    prompt_ids: list[int],
    answer: list[dict[str, str]],
    end_ids: set[int],
    *,
    ended: bool,
) -> list[int]:
    """The tokens that serving made: with the end-of-turn token, and nothing after it, where it ended."""
    ids = _template(tokenizer, prompt + answer, add_generation_prompt=False)
    if ids[: len(prompt_ids)] != prompt_ids:
        raise BadData("the chat template of the base does not continue a prompt with its answer")
    return to_the_end(ids[len(prompt_ids) :], end_ids, keep_end=ended)


def tokenize(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, end_ids: set[int], answers: dict[str, str]
) -> list[Row]:
    """Rows with `prompt_ids` and, for each answer column, `<column>_ids`.

    `answers` names the columns that hold answers and the flag that says whether each ended.
    """
    tokenized = []
    for row in rows:
        prompt_ids = prompt_tokens(tokenizer, row["prompt"])
        new = {**row, "prompt_ids": prompt_ids}
        for column, flag in answers.items():
            new[flag] = row.get(flag) is not False  # absent or null: it ended
            new[f"{column}_ids"] = answer_tokens(
                tokenizer, row["prompt"], prompt_ids, row[column], end_ids, ended=new[flag]
            )
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


def _template(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=add_generation_prompt
    )
    return ids
