"""A score for each answer: by a reward model, or by how likely the answer is to a version or to the base.

    python -m training.recipes.score RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/train-*.parquet (format completions). With `versions.reward` a
score is the reward model's; without it, log p(answer | prompt) / tokens, in nats, under `versions.adapter` or
the base. Higher is better. Writes RUN_DIR/artifact/rows.parquet: `id`, `score`, `tokens` of the answer. What
is longer than max_length has no score: a part of it is another answer. Exit codes are as for dpo.py; a run
that was interrupted starts again from its beginning.
"""

from __future__ import annotations

import statistics
import sys

from training.recipes.command import run_from_shell
from training.recipes.config import ScoreConfig
from training.recipes.inputs import check_inputs, check_version, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run


def score(run: Run) -> None:
    """The whole recipe, from the checked inputs to the rows."""
    # ---- Arguments.
    config = read_config(run, ScoreConfig)
    check_inputs(run)
    for role, kind in (("reward", "reward"), ("adapter", "adapter")):
        if role in run.spec.versions:
            check_version(run, role, kind)

    import pyarrow as pa

    from training.recipes.accounting import Compute
    from training.recipes.device import load_adapted_model, load_tokens, open_device
    from training.recipes.likelihood import log_likelihoods
    from training.recipes.meter import Meter
    from training.recipes.rows import read_format, tokenize
    from training.recipes.rows_out import Watch, publish_rows
    from training.recipes.scoring import load_reward_model, score_texts
    from training.recipes.weights import count_weights

    # ---- Data.
    device = open_device(run, config)
    tokens = load_tokens(run)
    rows = tokenize(
        read_format(run.dataset, "train", "completions"),
        tokens.tokenizer,
        set(tokens.end_ids),
        {"completion": "ended"},
    )
    if problems := preflight(config, {"train": len(rows)}):
        raise BadData(" ".join(problems))
    rows.sort(key=lambda row: len(row["prompt_ids"]) + len(row["completion_ids"]))  # like lengths together
    fitting = [
        row for row in rows if len(row["prompt_ids"]) + len(row["completion_ids"]) <= config.max_length
    ]

    # ---- Model.
    by_reward = "reward" in run.spec.versions
    if by_reward:
        model = load_reward_model(run, run.spec.versions["reward"], device, tokens.pad_id)
    else:
        model = load_adapted_model(run, run.spec.versions.get("adapter"), device)
    compute = Compute(count_weights(model), tokens={"reward" if by_reward else "heldout": 0})
    meter = Meter(compute)
    meter.watch_model(model, "reward" if by_reward else "heldout")

    # ---- Scores.
    how = {"pad_id": tokens.pad_id, "batch_size": config.batch_size, "device": model.device}
    found: dict[str, float] = {}
    for some in Watch(run, compute, meter, config, len(fitting)).chunks(fitting):
        with device.autocast():
            if by_reward:
                scores = score_texts(
                    model, [row["prompt_ids"] + row["completion_ids"] for row in some], **how
                )
            else:
                logps = log_likelihoods(
                    model,
                    [(row["prompt_ids"] + row["completion_ids"], len(row["prompt_ids"])) for row in some],
                    **how,
                )
                scores = [
                    logp / max(1, len(row["completion_ids"])) for logp, row in zip(logps, some, strict=True)
                ]
        found |= {row["id"]: value for row, value in zip(some, scores, strict=True)}

    # ---- Save, in the order of the ids.
    rows.sort(key=lambda row: str(row["id"]))
    schema = pa.schema([("id", pa.string()), ("score", pa.float64()), ("tokens", pa.int32())])
    metrics = {"answers": float(len(rows)), "without_score": float(len(rows) - len(fitting))}
    if found:
        metrics |= {
            "score_mean": statistics.fmean(found.values()),
            "score_deviation": statistics.pstdev(found.values()),
        }
    publish_rows(
        run,
        config,
        device,
        compute,
        [
            {"id": row["id"], "score": found.get(row["id"]), "tokens": len(row["completion_ids"])}
            for row in rows
        ],
        schema,
        metrics,
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("score", score, __doc__))
