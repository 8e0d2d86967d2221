"""A version beside the base: perplexity of texts, accuracy on pairs, a reward model's scores of answers.

    python -m training.recipes.evaluate RUN_DIR

Reads RUN_DIR/run.json (`versions.adapter` is the version, without it the base itself; `versions.reward` where
answers are to be scored) and from RUN_DIR/dataset/ the parts that are there: `text-*`, `pairs-*`, `answers-*`
(columns.py). Writes RUN_DIR/artifact/rows.parquet, one row an example, in the order of part and id:

    part, id              text, pairs or answers; the example's own
    tokens, tokens_base   of the text; of chosen and rejected; of the candidate's and the champion's answer
    value, value_base     text: nats a token under the version and under the base (lower is better).
                          pairs: log p_version - log p_base of chosen and of rejected, in nats.
                          answers: score of the candidate's answer and of the champion's.
    wins                  1, 0, or 0.5 for a tie: lower nats; chosen above rejected; the candidate's higher
    score, score_base     pairs with a reward model: its scores of chosen and of rejected

What is longer than max_length is cut for texts and left out (empty values) otherwise. Exit codes are as for
dpo.py; a run that was interrupted starts again from its beginning.
"""

from __future__ import annotations

import math
import statistics
import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import EvaluateConfig
from training.recipes.inputs import check_inputs, check_version, read_config
from training.recipes.rundir import BadData, BadRun, Run


def evaluate(run: Run) -> None:
    """The whole recipe, from the checked inputs to the rows."""
    # ---- Arguments.
    config = read_config(run, EvaluateConfig)
    check_inputs(run)
    for role, kind in (("reward", "reward"), ("adapter", "adapter")):
        if role in run.spec.versions:
            check_version(run, role, kind)

    import pyarrow as pa

    from training.recipes.accounting import Compute
    from training.recipes.device import load_adapted_model, load_tokens, open_device
    from training.recipes.likelihood import log_likelihoods
    from training.recipes.meter import Meter
    from training.recipes.pairs import ANSWERS
    from training.recipes.rows import read_rows, tokenize
    from training.recipes.rows_out import Watch, publish_rows
    from training.recipes.scoring import load_reward_model, score_texts
    from training.recipes.weights import count_weights

    # ---- Data.
    device = open_device(run, config)
    tokens = load_tokens(run)
    ends = set(tokens.end_ids)
    texts = read_rows(run.dataset, "text", ("id", "text"))
    pairs = tokenize(
        read_rows(run.dataset, "pairs", ("id", "prompt", "chosen", "rejected")),
        tokens.tokenizer,
        ends,
        ANSWERS,
    )
    answers = tokenize(
        read_rows(run.dataset, "answers", ("id", "prompt", "candidate", "champion")),
        tokens.tokenizer,
        ends,
        {"candidate": "candidate_ended", "champion": "champion_ended"},
    )
    if not (texts or pairs or answers):
        raise BadData("there is nothing to evaluate: no part text, pairs or answers in the dataset")
    if answers and "reward" not in run.spec.versions:
        raise BadRun("answers are compared by a reward model: run.json names none under versions.reward.")

    # ---- Models: the version, whose adapter is put aside to read as the base reads; the reward model.
    model = load_adapted_model(run, run.spec.versions.get("adapter"), device)
    compute = Compute(count_weights(model), tokens={"heldout": 0})
    meter = Meter(compute)
    meter.watch_model(model, "heldout")
    reward: Any = None
    if "reward" in run.spec.versions:
        reward = load_reward_model(run, run.spec.versions["reward"], device, tokens.pad_id)
        compute.others = {"reward": count_weights(reward)}
        meter.watch_model(reward, "reward")

    how = {"pad_id": tokens.pad_id, "batch_size": config.batch_size, "device": model.device}
    watch = Watch(run, compute, meter, config, len(texts) + len(pairs) + len(answers))

    def both(sequences: list[tuple[list[int], int]]) -> tuple[list[float], list[float]]:
        """Log likelihoods under the version and under the base."""
        with device.autocast():
            version = log_likelihoods(model, sequences, **how)
            if "adapter" not in run.spec.versions:
                return version, version
            with model.disable_adapter():
                return version, log_likelihoods(model, sequences, **how)

    def scores(some: list[dict[str, Any]], side: str) -> list[float]:
        with device.autocast():
            return score_texts(reward, [row["prompt_ids"] + row[f"{side}_ids"] for row in some], **how)

    def fits(row: dict[str, Any], *sides: str) -> bool:
        return all(len(row["prompt_ids"]) + len(row[f"{side}_ids"]) <= config.max_length for side in sides)

    rows: list[dict[str, Any]] = []

    # ---- Texts: how well each is foretold, token by token.
    for some in watch.chunks(texts):
        sequences = [
            (tokens.tokenizer(row["text"], add_special_tokens=False)["input_ids"][: config.max_length], 1)
            for row in some
        ]
        version, base = both(sequences)
        for row, (ids, _), one, other in zip(some, sequences, version, base, strict=True):
            judged = len(ids) - 1
            row_out = {"part": "text", "id": row["id"], "tokens": judged, "tokens_base": judged}
            if judged > 0:
                row_out |= {"value": -one / judged, "value_base": -other / judged, "wins": _wins(one, other)}
            rows.append(row_out)

    # ---- Pairs: does the version put chosen over rejected, more than the base does.
    for some in watch.chunks(pairs):
        rows += [_lengths("pairs", row, "chosen", "rejected") for row in some]
        kept = [row for row in some if fits(row, "chosen", "rejected")]
        lifts = {}
        for side in ("chosen", "rejected"):
            version, base = both(
                [(row["prompt_ids"] + row[f"{side}_ids"], len(row["prompt_ids"])) for row in kept]
            )
            lifts[side] = [one - other for one, other in zip(version, base, strict=True)]
        by_id = {row["id"]: row for row in rows[-len(some) :]}
        for row, one, other in zip(kept, lifts["chosen"], lifts["rejected"], strict=True):
            by_id[row["id"]] |= {"value": one, "value_base": other, "wins": _wins(one, other)}
        if reward is not None:
            for row, one, other in zip(kept, scores(kept, "chosen"), scores(kept, "rejected"), strict=True):
                by_id[row["id"]] |= {"score": one, "score_base": other}

    # ---- Answers: whose does the reward model like better.
    for some in watch.chunks(answers):
        rows += [_lengths("answers", row, "candidate", "champion") for row in some]
        by_id = {row["id"]: row for row in rows[-len(some) :]}
        kept = [row for row in some if fits(row, "candidate", "champion")]
        for row, one, other in zip(kept, scores(kept, "candidate"), scores(kept, "champion"), strict=True):
            by_id[row["id"]] |= {"value": one, "value_base": other, "wins": _wins(one, other)}

    # ---- Save.
    rows.sort(key=lambda row: (row["part"], row["id"]))
    numbers = ("value", "value_base", "wins", "score", "score_base")
    schema = pa.schema(
        [
            ("part", pa.string()),
            ("id", pa.string()),
            ("tokens", pa.int32()),
            ("tokens_base", pa.int32()),
            *((name, pa.float64()) for name in numbers),
        ]
    )
    publish_rows(run, config, device, compute, rows, schema, _summary(rows))


def _lengths(part: str, row: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    return {
        "part": part,
        "id": row["id"],
        "tokens": len(row[f"{one}_ids"]),
        "tokens_base": len(row[f"{other}_ids"]),
    }


def _wins(one: float, other: float) -> float:
    return 1.0 if one > other else 0.5 if one == other else 0.0


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The run's numbers. Perplexity is over all tokens of all texts, the rest are means over examples."""
    metrics: dict[str, float] = {}
    judged = {part: [row for row in rows if row["part"] == part and "value" in row] for part in _PARTS}
    for part, some in judged.items():
        if some:
            metrics[_PARTS[part]] = statistics.fmean(row["wins"] for row in some)
            metrics[part] = float(len(some))
    if texts := judged["text"]:
        total = sum(row["tokens"] for row in texts)
        for name, column in (("perplexity", "value"), ("perplexity_base", "value_base")):
            metrics[name] = math.exp(sum(row[column] * row["tokens"] for row in texts) / total)
    if scored := [row for row in judged["pairs"] if "score" in row]:
        metrics["reward_accuracy"] = statistics.fmean(
            _wins(row["score"], row["score_base"]) for row in scored
        )
    if judged["answers"]:
        metrics["score_mean"] = statistics.fmean(row["value"] for row in judged["answers"])
        metrics["score_mean_base"] = statistics.fmean(row["value_base"] for row in judged["answers"])
    return metrics


_PARTS = {"text": "text_win_rate", "pairs": "preference_accuracy", "answers": "reward_win_rate"}


if __name__ == "__main__":
    sys.exit(run_from_shell("evaluate", evaluate, __doc__))
