"""Direct Preference Optimisation of a LoRA adapter on preference pairs (Rafailov et al. 2023).

    python -m training.recipes.dpo RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/ (format preference), writes events, checkpoints and
RUN_DIR/artifact/ (see rundir.py). Exit codes: 0 finished, 65 wrong input, 70 a fault, 71 out of memory,
72 diverged, 74 disk full, 75 interrupted (start it again and it goes on). Safe to run twice.
On several devices:

    accelerate launch --multi_gpu --num_processes 2 -m training.recipes.dpo RUN_DIR

The reference is the base, or the adapter that the run goes on with (`versions.start` in run.json).

Left out: full-weight training.
"""

from __future__ import annotations

import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import DpoConfig
from training.recipes.inputs import check_inputs, check_start, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run, is_main, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, DpoConfig)
    check_inputs(run)
    begun = check_start(run, config)

    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_policy, load_tokens, open_device
    from training.recipes.meter import Meter
    from training.recipes.pairs import EndAwareCollator, longest, preference_accuracy, read_pairs
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.rows import training_order
    from training.recipes.weights import count_weights

    # ---- Model.
    device = open_device(run, config)
    model, lora = load_policy(run, config, device)
    tokens = load_tokens(run)

    # ---- Data: tokens as serving makes them, batches of like length.
    rows = read_pairs(run.dataset, "train", tokens.tokenizer, set(tokens.end_ids))
    heldout = read_pairs(run.dataset, "heldout", tokens.tokenizer, set(tokens.end_ids))
    counts = {"train": len(rows), "heldout": len(heldout)}
    if problems := preflight(config, counts, [longest(row) for row in rows]):
        raise BadData(" ".join(problems))
    rows = [row for row in rows if len(row["prompt_ids"]) < config.max_length]  # nothing left to learn from
    heldout = [row for row in heldout if len(row["prompt_ids"]) < config.max_length]
    lengths = [longest(row) for row in rows]
    order = training_order(lengths, config.batch_size, run.spec.seed, group_by_length=config.group_by_length)
    columns = ("prompt", "chosen", "rejected", "chosen_ended", "rejected_ended")
    dataset = Dataset.from_list([{name: rows[index][name] for name in columns} for index in order])
    collator = EndAwareCollator(
        pad_token_id=tokens.pad_id,
        max_length=config.max_length,
        truncation_mode="keep_start",
        end_ids=tokens.end_ids,
    )

    # ---- Training.
    steps = config.steps(len(rows), processes())
    arguments = DPOConfig(
        **shared_arguments(run, config, device, steps),
        # the loss
        loss_type=[config.loss_type, "sft"] if config.sft_weight else [config.loss_type],
        loss_weights=[1.0, config.sft_weight] if config.sft_weight else [1.0],
        beta=config.beta,
        ld_alpha=config.length_weight if config.length_weight < 1 else None,
        label_smoothing=config.label_smoothing,
        f_divergence_type="reverse_kl",
        disable_dropout=config.lora_dropout == 0,
        precompute_ref_log_probs=config.precompute_reference,
        precompute_ref_batch_size=config.batch_size,
        # the data
        max_length=config.max_length,
        truncation_mode="keep_start",
        train_sampling_strategy="sequential",  # the order was made above
        remove_unused_columns=False,  # the collator reads *_ended
    )
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=tokens.tokenizer,
        peft_config=lora,
    )
    policy: Any = trainer.model
    compute = Compute(count_weights(policy), config.gradient_checkpointing, processes=processes())
    if config.precompute_reference:  # read before the meter is there, once a pair
        compute.tokens["reference"] = sum(
            min(config.max_length, len(row["prompt_ids"]) + len(row[f"{side}_ids"]))
            for row in rows
            for side in ("chosen", "rejected")
        )
    meter = Meter(compute)
    meter.watch_policy(policy)
    metrics = run_trainer(run, trainer, compute, meter)

    # ---- Evidence: by example, never TRL's means over batches.
    metrics |= update_sizes(policy)
    if heldout and is_main():
        with meter.heldout(), device.autocast():
            found = preference_accuracy(policy, heldout, collator, config.batch_size, policy.device)
        metrics |= {
            "heldout_pairs": found["pairs"],
            "heldout_accuracy_before": 0.5,  # by definition: as it began all rewards are 0
            "heldout_accuracy": found["accuracy"],
            "heldout_margin": found["margin"],
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
        rows=len(rows),
        metrics=metrics,
        lineage=begun,
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("dpo", train, __doc__))
