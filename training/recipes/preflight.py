"""What would make a run fail or learn nothing, in sentences, before anything is queued. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from training.recipes.config import DpoConfig

# Fewer than this and one step sees everything; the loss moves, the model learns the pairs and no taste.
FEWEST_PAIRS = 16


def preflight(config: DpoConfig, counts: dict[str, int], lengths: Sequence[int] | None = None) -> list[str]:
    """Sentences that say what to mend; empty when the run may start.

    `counts` are rows by part ({"train": 130, "heldout": 20}); `lengths` are tokens of prompt and longer
    answer together, one a training pair, when they are known.
    """
    found = config.problems()
    pairs = counts.get("train", 0)
    if pairs < FEWEST_PAIRS:
        found.append(
            f"DPO needs at least {FEWEST_PAIRS} pairs to learn anything, got {pairs}. Collect more, "
            "or check the filters: ties, all-bad votes and gate prompts make no pairs."
        )
    elif config.batch_size > pairs:
        found.append(
            f"batch_size is {config.batch_size} and there are {pairs} pairs: the whole run would be "
            f"{config.epochs} step(s). Set batch_size to {max(1, pairs // 8)} or less."
        )
    if lengths:
        cut = sum(length > config.max_length for length in lengths)
        if cut == len(lengths):
            found.append(
                f"Every pair is longer than max_length {config.max_length} (the shortest has {min(lengths)} "
                "tokens), so every answer would be cut. Raise max_length."
            )
        elif cut > len(lengths) / 2:
            found.append(
                f"{cut} of {len(lengths)} pairs are longer than max_length {config.max_length} and would be "
                f"cut. Raise max_length to {max(lengths)}, or filter long answers."
            )
    return found
