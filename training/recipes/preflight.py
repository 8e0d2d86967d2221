"""What would make a run fail or learn nothing, in sentences, before anything is queued. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.recipes.config import Config, KtoConfig, PretrainConfig, RolloutConfig, TrainingConfig

# Where rows of a kind are missing, what a person may look at.
HINTS = {
    "pairs": "Collect more, or check the filters: ties, all-bad votes and gate prompts make no pairs.",
    "answers": "Collect more corrections, or take in chosen answers as well.",
}


def preflight(config: Config, counts: Mapping[str, int], lengths: Sequence[int] | None = None) -> list[str]:
    """Sentences that say what to mend; empty when the run may start.

    `counts` are rows by part ({"train": 130, "heldout": 20}), and more where it is known: `wanted` and
    `unwanted` of labels, `processes` that train together.
    `lengths` are tokens, one a training row (of a pair its prompt and longer answer), when they are known.
    """
    found = config.problems()
    found += _rows(config, counts.get("train", 0), counts.get("processes", 1))
    if isinstance(config, KtoConfig) and "wanted" in counts:
        found += _labels(counts["wanted"], counts["unwanted"])
    if lengths:
        found += _lengths(config, lengths)
    return found


def _rows(config: Config, rows: int, processes: int) -> list[str]:
    unit = config.unit
    if rows < config.fewest:
        hint = HINTS.get(unit, "Collect more, or check the filters.")
        return [f"{config.title} needs at least {config.fewest} {unit} to learn anything, got {rows}. {hint}"]
    if isinstance(config, RolloutConfig):
        each = config.prompts_a_step(processes)
        if each > rows:
            return [
                f"One step of {config.title} answers {each} different prompts and there are {rows}. Collect "
                "more, or lower gradient_accumulation or batch_size."
            ]
    elif isinstance(config, PretrainConfig):
        return []  # how many blocks they make is known once they are read
    elif isinstance(config, TrainingConfig) and config.batch_size > rows:
        return [
            f"batch_size is {config.batch_size} and there are {rows} {unit}: the whole run would be "
            f"{config.epochs} step(s). Set batch_size to {max(1, rows // 8)} or less."
        ]
    return []


def _labels(wanted: int, unwanted: int) -> list[str]:
    if not wanted or not unwanted:
        only, other = ("wanted", "unwanted") if wanted else ("unwanted", "wanted")
        return [
            f"All labels are {only}. KTO learns from the difference: collect some {other} answers too, or "
            "train on the wanted ones with SFT."
        ]
    return []


def _lengths(config: Config, lengths: Sequence[int]) -> list[str]:
    one = config.unit.removesuffix("s")
    cut = sum(length > config.max_length for length in lengths)
    if cut == len(lengths):
        return [
            f"Every {one} is longer than max_length {config.max_length} (the shortest has {min(lengths)} "
            "tokens), so every answer would be cut. Raise max_length."
        ]
    if cut > len(lengths) / 2:
        return [
            f"{cut} of {len(lengths)} {config.unit} are longer than max_length {config.max_length} and would "
            f"be cut. Raise max_length to {max(lengths)}, or filter long answers."
        ]
    return []
