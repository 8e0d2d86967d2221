"""The columns of the datasets that the recipes read: the contract with the compiler. Imports no torch.

A dataset is a folder of Parquet shards, `train-*.parquet` and `heldout-*.parquet`, with a manifest. Messages
are lists of {"role", "content"}; a prompt ends with the turn that is answered, an answer is one assistant
message. Every row may carry `prompt_id` and carries `feedback_ids`, which no recipe reads.

An `..._ended` column, where the compiler knows it, is false for an answer that was cut at its token limit: it
must not be taught an end that it never had. Missing, every answer ended.

| format | columns |
|---|---|
| sft | `prompt` messages, `completion` messages, `ended` |
| preference | `prompt`, `chosen`, `rejected` messages, `chosen_ended`, `rejected_ended`, `margin` float |
| unpaired | `prompt`, `completion` messages, `label` bool (true is wanted), `ended` |
| prompts | `prompt` messages |
| text | `text` |
| completions | `id`, `prompt`, `completion` messages, `ended`: read by `score`, from `train-*` alone |

`margin` says how much better chosen is, in units of reward (0 where nobody said); only `reward` reads it.

`evaluate` reads a folder with other parts, each optional: `text-*` (`id`, `text`), `pairs-*` (`id`, `prompt`,
`chosen`, `rejected`) and `answers-*` (`id`, `prompt`, `candidate`, `champion` messages).
"""

from __future__ import annotations

# Columns that must be there, by format.
COLUMNS: dict[str, tuple[str, ...]] = {
    "sft": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "prompts": ("prompt",),
    "text": ("text",),
    "completions": ("id", "prompt", "completion"),
}
# Those that hold messages.
MESSAGES = ("prompt", "completion", "chosen", "rejected", "candidate", "champion")
