"""Kahneman-Tversky Optimisation of a LoRA adapter on answers that were wanted or not, unpaired.

    python -m training.recipes.kto RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/ (format unpaired), writes events, checkpoints and
RUN_DIR/artifact/. Exit codes, resuming and several devices are as for dpo.py. The reference is the base, or
the adapter that it goes on with (`versions.start`).

Left out: full-weight training.
"""

from __future__ import annotations

import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import KtoConfig
from training.recipes.inputs import check_inputs, check_start, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run, is_main, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, KtoConfig)
    check_inputs(run)
    begun = check_start(run, config)

    from datasets import Dataset
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_policy, load_tokens, open_device
    from training.recipes.labels import (
        EndAwareUnpairedCollator,
        count_labels,
        ranking_accuracy,
        read_labels,
    )
    from training.recipes.likelihood import log_likelihoods
    from training.recipes.meter import Meter
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.reference import as_reference
    from training.recipes.rows import training_order
    from training.recipes.weights import count_weights

    # ---- Model.
    device = open_device(run, config)
    model, lora = load_policy(run, config, device)
    tokens = load_tokens(run)

    # ---- Data: shuffled, and read in that order, because TRL pairs neighbours to estimate the KL.
    rows = read_labels(run.dataset, "train", tokens.tokenizer, set(tokens.end_ids))
    heldout = read_labels(run.dataset, "heldout", tokens.tokenizer, set(tokens.end_ids))
    counts = {"train": len(rows), "heldout": len(heldout), **count_labels(rows)}
    if problems := preflight(
        config, counts, [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows]
    ):
        raise BadData(" ".join(problems))
    rows = [row for row in rows if len(row["prompt_ids"]) < config.max_length]  # nothing left to learn from
    heldout = [row for row in heldout if len(row["prompt_ids"]) < config.max_length]
    order = training_order([0] * len(rows), config.batch_size, run.spec.seed, group_by_length=False)
    if len(order) % config.batch_size == 1:
        order.pop()  # alone in its batch it would be its own neighbour, and its KL its reward
    columns = ("prompt", "completion", "label", "ended")
    dataset = Dataset.from_list([{name: rows[index][name] for name in columns} for index in order])
    wanted, unwanted = counts["wanted"], counts["unwanted"]
    rarer = (
        {"desirable": unwanted / wanted, "undesirable": wanted / unwanted} if config.balance_labels else {}
    )

    # ---- Training.
    steps = config.steps(len(order), processes())
    arguments = KTOConfig(
        **shared_arguments(run, config, device, steps),
        # the loss
        loss_type=config.loss_type,
        beta=config.beta,
        desirable_weight=config.desirable_weight * max(1.0, rarer.get("desirable", 1.0)),
        undesirable_weight=config.undesirable_weight * max(1.0, rarer.get("undesirable", 1.0)),
        disable_dropout=config.lora_dropout == 0,
        precompute_ref_log_probs=False,
        # the data
        max_length=config.max_length,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,  # the collator reads `ended`
    )
    trainer = KTOTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=EndAwareUnpairedCollator(
            pad_token_id=tokens.pad_id, max_length=config.max_length, end_ids=tokens.end_ids
        ),
        processing_class=tokens.tokenizer,
        peft_config=lora,
    )
    policy: Any = trainer.model
    compute = Compute(count_weights(policy), config.gradient_checkpointing, processes=processes())
    meter = Meter(compute)
    # The passes over the neighbours' answers train nothing, with the adapter or without it: reference.
    meter.watch_policy(policy, idle="reference")
    metrics = run_trainer(run, trainer, compute, meter)

    # ---- Evidence: the implied reward log p_policy - log p_reference of each held-out answer.
    metrics |= update_sizes(policy)
    labels = count_labels(heldout)
    if labels["wanted"] and labels["unwanted"] and is_main():
        sequences = [
            ((row["prompt_ids"] + row["completion_ids"])[: config.max_length], len(row["prompt_ids"]))
            for row in heldout
        ]

        def likelihoods() -> list[float]:
            return log_likelihoods(
                policy,
                sequences,
                pad_id=tokens.pad_id,
                batch_size=config.batch_size,
                device=policy.device,
            )

        with meter.heldout(), device.autocast():
            after = likelihoods()
            with as_reference(policy):
                before = likelihoods()
        rewards = [one - other for one, other in zip(after, before, strict=True)]
        good, bad = (
            [reward for reward, row in zip(rewards, heldout, strict=True) if row["label"] is label]
            for label in (True, False)
        )
        metrics |= {
            "heldout_labels": len(heldout),
            "heldout_accuracy_before": 0.5,  # by definition: as it began all rewards are 0
            "heldout_accuracy": ranking_accuracy(good, bad),
            "heldout_margin": sum(good) / len(good) - sum(bad) / len(bad),
        }
    meter.flush(together=False)

    # ---- Save.
    publish(
        run,
        policy,
        config,
        device,
        compute,
        steps=steps,
        probe_ids=rows[0]["prompt_ids"],
        rows=len(order),
        metrics=metrics,
        lineage={"wanted": wanted, "unwanted": unwanted, **begun},
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("kto", train, __doc__))
