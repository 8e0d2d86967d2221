"""A reward model in use: loaded from its version, it gives each text one score. Higher is better."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel

from training.recipes.device import Device, load_scoring_model
from training.recipes.likelihood import batches
from training.recipes.rundir import BadRun, Given, Run


def load_reward_model(
    run: Run, given: Given, device: Device, pad_id: int, *, is_trainable: bool = False
) -> Any:
    """The reward model of an adapter folder. It is not merged: bf16 would lose the update.

    Raises BadRun where the folder holds no score head: PEFT would go on with one that knows nothing.
    """
    model = load_scoring_model(run, device, pad_id)
    loaded: Any = PeftModel.from_pretrained(model, str(given.path), is_trainable=is_trainable)
    if not bool(torch.count_nonzero(loaded.get_base_model().score.weight)):
        raise BadRun(f"{given.path.name} holds no score head, so it is no reward model.")
    return loaded.eval().to(device.name)


def score_texts(
    model: Any, texts: list[list[int]], *, pad_id: int, batch_size: int, device: torch.device
) -> list[float]:
    """One score a text, read at its last token, in the order of `texts` (token ids, prompt and answer)."""
    found = [0.0] * len(texts)
    with torch.no_grad():
        for indices, batch in batches([(ids, 0) for ids in texts], pad_id, batch_size, device):
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits  # (B, 1)
            for index, score in zip(indices, logits[:, 0].tolist(), strict=True):
                found[index] = score
    return found
