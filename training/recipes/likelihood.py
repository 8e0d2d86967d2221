"""How likely answers and texts are to a model: nats by example, never a mean over batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from training.recipes.pairs import answer_logps

Sequence = tuple[list[int], int]  # token ids, and how many of them are given: the rest is what is judged


def log_likelihoods(
    model: Any, sequences: list[Sequence], *, pad_id: int, batch_size: int, device: torch.device
) -> list[float]:
    """log p(judged tokens | given tokens) of each sequence, in nats, in the order of `sequences`."""
    found = [0.0] * len(sequences)
    model.eval()
    with torch.no_grad():
        for indices, batch in batches(sequences, pad_id, batch_size, device):
            for index, logp in zip(indices, answer_logps(model, batch).tolist(), strict=True):
                found[index] = logp
    return found


def batches(
    sequences: list[Sequence], pad_id: int, batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Indices and (B, T) tensors, sequences of like length together, padded on the right."""
    order = sorted(range(len(sequences)), key=lambda index: len(sequences[index][0]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        longest = max(len(sequences[index][0]) for index in indices)
        ids = torch.full((len(indices), longest), pad_id)
        attention = torch.zeros_like(ids)
        judged = torch.zeros_like(ids)
        for row, index in enumerate(indices):
            tokens, given = sequences[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            attention[row, : len(tokens)] = 1
            judged[row, given : len(tokens)] = 1
        yield (
            indices,
            {
                "input_ids": ids.to(device),
                "attention_mask": attention.to(device),
                "completion_mask": judged.to(device),
            },
        )


def judged_tokens(sequences: list[Sequence]) -> list[int]:
    """How many tokens of each sequence are judged. The first token of a text is always given."""
    return [len(tokens) - max(1, given) for tokens, given in sequences]
