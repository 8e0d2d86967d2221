"""A reward model: a LoRA adapter with a score head, trained on preference pairs.

    python -m training.recipes.reward RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/ (format preference, with `margin` where people said how much
better), writes events, checkpoints and RUN_DIR/artifact/ of kind reward. Exit codes, resuming and several
devices are as for dpo.py. It never serves; score, rloo, ppo and evaluate read it.

Left out: pairs longer than max_length (a reward for a part of what was judged would be another's).
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import RewardConfig
from training.recipes.inputs import check_inputs, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run, is_main, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, RewardConfig)
    check_inputs(run)

    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig as TrlRewardConfig
    from trl.trainer.reward_trainer import DataCollatorForPreference, RewardTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_scoring_model, load_tokens, lora_config, open_device
    from training.recipes.meter import Meter
    from training.recipes.pairs import longest, read_pairs, share_above_zero
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.rows import training_order
    from training.recipes.scoring import score_texts
    from training.recipes.weights import count_weights

    # ---- Model: the task SEQ_CLS makes PEFT train and save the head; without it the head is lost in silence.
    device = open_device(run, config)
    tokens = load_tokens(run)
    model = load_scoring_model(run, device, tokens.pad_id)
    lora = lora_config(config, model, "SEQ_CLS")

    # ---- Data: both texts whole, prompt and answer.
    rows = read_pairs(run.dataset, "train", tokens.tokenizer, set(tokens.end_ids))
    heldout = read_pairs(run.dataset, "heldout", tokens.tokenizer, set(tokens.end_ids))
    counts = {"train": len(rows), "heldout": len(heldout)}
    if problems := preflight(config, counts, [longest(row) for row in rows]):
        raise BadData(" ".join(problems))
    rows = [row for row in rows if longest(row) <= config.max_length]
    heldout = [row for row in heldout if longest(row) <= config.max_length]
    order = training_order(
        [longest(row) for row in rows],
        config.batch_size,
        run.spec.seed,
        group_by_length=config.group_by_length,
    )
    dataset = Dataset.from_list(
        [
            {
                "chosen_ids": rows[index]["prompt_ids"] + rows[index]["chosen_ids"],
                "rejected_ids": rows[index]["prompt_ids"] + rows[index]["rejected_ids"],
                "margin": float(rows[index].get("margin") or 0) if config.use_margins else 0.0,
            }
            for index in order
        ]
    )

    # ---- Training.
    steps = config.steps(len(rows), processes())
    arguments = TrlRewardConfig(
        **shared_arguments(run, config, device, steps),
        center_rewards_coefficient=config.center_rewards or None,
        disable_dropout=config.lora_dropout == 0,
        max_length=config.max_length,
        pad_token=tokens.pad_token,
        train_sampling_strategy="sequential",  # the order was made above
        remove_unused_columns=True,
    )
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=DataCollatorForPreference(pad_token_id=tokens.pad_id),
        processing_class=tokens.tokenizer,
        peft_config=lora,
    )
    policy: Any = trainer.model
    compute = Compute(count_weights(policy), config.gradient_checkpointing, processes=processes())
    meter = Meter(compute)
    meter.watch_policy(policy)
    metrics = run_trainer(run, trainer, compute, meter)

    # ---- Evidence: by example.
    metrics |= update_sizes(policy)
    if heldout and is_main():
        policy.eval()
        with meter.heldout(), device.autocast():
            chosen, rejected = (
                score_texts(
                    policy,
                    [row["prompt_ids"] + row[f"{side}_ids"] for row in heldout],
                    pad_id=tokens.pad_id,
                    batch_size=config.batch_size,
                    device=policy.device,
                )
                for side in ("chosen", "rejected")
            )
        margins = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
        scores = chosen + rejected
        lengths = [len(row[f"{side}_ids"]) for side in ("chosen", "rejected") for row in heldout]
        metrics |= {
            "heldout_pairs": len(heldout),
            "heldout_accuracy_before": 0.5,  # by definition: the head begins at zero
            "heldout_accuracy": share_above_zero(margins),
            "heldout_margin": statistics.fmean(margins),
            "score_mean": statistics.fmean(scores),
            "score_deviation": statistics.pstdev(scores),
        }
        if len(set(lengths)) > 1 and len(set(scores)) > 1:  # a score that follows length invites long answers
            metrics["length_correlation"] = statistics.correlation(scores, lengths)
    meter.flush(together=False)

    # ---- Save.
    publish(
        run,
        policy,
        config,
        device,
        compute,
        steps=steps,
        probe_ids=rows[0]["prompt_ids"] + rows[0]["chosen_ids"],
        rows=len(rows),
        metrics=metrics,
        kind="reward",
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("reward", train, __doc__))
