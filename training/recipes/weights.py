"""Counts the weights that take part in a token's work, for the account (accounting.py has the formula)."""

from __future__ import annotations

import re
from typing import Any

from training.recipes.accounting import Weights
from training.recipes.reference import REFERENCE

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def count_weights(model: Any) -> Weights:
    """Weights of a model with an adapter: all matrices, those from the first adapter up, the adapter.

    The head is the one that makes logits, or a score.
    """
    by_layer: dict[int, int] = {}
    adapter = 0
    trained: set[int] = set()
    for name, parameter in model.named_parameters():
        found = LAYER.search(name)
        if f".{REFERENCE}." in name:
            continue  # a frozen copy, used in place of the adapter
        if "lora_" in name:
            adapter += parameter.numel()
            if found:
                trained.add(int(found[1]))
        elif found and parameter.ndim == 2:
            by_layer[int(found[1])] = by_layer.get(int(found[1]), 0) + parameter.numel()
    output = model.get_output_embeddings()  # tied or not, the product with it is computed
    head = output.weight.numel() if output is not None else int(model.config.hidden_size)
    lowest = min(trained, default=0)
    return Weights(
        matrices=sum(by_layer.values()) + head,
        trained_upwards=sum(size for layer, size in by_layer.items() if layer >= lowest) + head,
        adapter=adapter,
    )
