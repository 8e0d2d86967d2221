"""Counts the weights that take part in a token's work, for the account (accounting.py has the formula)."""

from __future__ import annotations

import re
from typing import Any

from training.recipes.accounting import Weights

LAYER = re.compile(r"\.layers\.(\d+)\.")


def count_weights(model: Any) -> Weights:
    """Weights of a PEFT causal model: all matrices, those from the first adapter up, the adapter."""
    by_layer: dict[int, int] = {}
    adapter = 0
    trained: set[int] = set()
    for name, parameter in model.named_parameters():
        found = LAYER.search(name)
        if parameter.requires_grad:
            adapter += parameter.numel()
            if found:
                trained.add(int(found[1]))
        elif found and parameter.ndim == 2 and "lora_" not in name:
            by_layer[int(found[1])] = by_layer.get(int(found[1]), 0) + parameter.numel()
    head = model.get_output_embeddings().weight.numel()  # tied or not, the product with it is computed
    lowest = min(trained, default=0)
    return Weights(
        matrices=sum(by_layer.values()) + head,
        trained_upwards=sum(size for layer, size in by_layer.items() if layer >= lowest) + head,
        adapter=adapter,
    )
