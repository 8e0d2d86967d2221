"""Supervised fine-tuning of a LoRA adapter on answers that people wrote or chose.

    python -m training.recipes.sft RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/ (format sft), writes events, checkpoints and RUN_DIR/artifact/.
Exit codes, resuming and several devices are as for dpo.py. Only the answers' tokens are learned.

Left out: full-weight training, packing (rows of like length share a batch instead).
"""

from __future__ import annotations

import math
import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import SftConfig
from training.recipes.inputs import check_inputs, check_start, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run, is_main, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, SftConfig)
    check_inputs(run)
    begun = check_start(run, config)

    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_policy, load_tokens, open_device
    from training.recipes.likelihood import judged_tokens, log_likelihoods
    from training.recipes.meter import Meter
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.rows import read_format, tokenize, training_order
    from training.recipes.weights import count_weights

    # ---- Model.
    device = open_device(run, config)
    model, lora = load_policy(run, config, device)
    tokens = load_tokens(run)

    # ---- Data: token ids, and how many of them are the prompt's.
    def read(part: str) -> list[tuple[list[int], int]]:
        rows = read_format(run.dataset, part, "sft")
        rows = tokenize(rows, tokens.tokenizer, set(tokens.end_ids), {"completion": "ended"})
        return [(row["prompt_ids"] + row["completion_ids"], len(row["prompt_ids"])) for row in rows]

    rows, heldout = read("train"), read("heldout")
    counts = {"train": len(rows), "heldout": len(heldout)}
    if problems := preflight(config, counts, [len(ids) for ids, _ in rows]):
        raise BadData(" ".join(problems))
    rows, heldout = (
        [(ids[: config.max_length], given) for ids, given in part if given < config.max_length]
        for part in (rows, heldout)
    )
    order = training_order(
        [len(ids) for ids, _ in rows],
        config.batch_size,
        run.spec.seed,
        group_by_length=config.group_by_length,
    )
    dataset = Dataset.from_list(
        [
            {"input_ids": ids, "labels": [-100] * given + ids[given:]}  # -100: read, not learned
            for ids, given in (rows[index] for index in order)
        ]
    )

    # ---- Training.
    steps = config.steps(len(rows), processes())
    arguments = SFTConfig(
        **shared_arguments(run, config, device, steps),
        loss_type="nll",  # a mean over the answers' tokens of a whole step
        max_length=None,  # cut above
        packing=False,
        padding_free=False,
        completion_only_loss=False,  # the labels say it
        assistant_only_loss=False,
        shuffle_dataset=False,
        train_sampling_strategy="sequential",  # the order was made above
        remove_unused_columns=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokens.pad_id),
        processing_class=tokens.tokenizer,
        peft_config=lora,
    )
    policy: Any = trainer.model
    compute = Compute(count_weights(policy), config.gradient_checkpointing, processes=processes())
    meter = Meter(compute)
    meter.watch_policy(policy)
    metrics = run_trainer(run, trainer, compute, meter)

    # ---- Evidence: nats a token of held-out answers, with the adapter and without it.
    metrics |= update_sizes(policy)
    if heldout and is_main():

        def loss() -> float:
            logps = log_likelihoods(
                policy,
                heldout,
                pad_id=tokens.pad_id,
                batch_size=config.batch_size,
                device=policy.device,
            )
            return -sum(logps) / sum(judged_tokens(heldout))

        with meter.heldout(), device.autocast():
            after = loss()
            with policy.disable_adapter():
                before = loss()
        metrics |= {
            "heldout_answers": len(heldout),
            "heldout_loss_before": before,
            "heldout_loss": after,
            "heldout_perplexity_before": math.exp(before),
            "heldout_perplexity": math.exp(after),
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
        probe_ids=rows[0][0],
        rows=len(rows),
        metrics=metrics,
        lineage=begun,
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("sft", train, __doc__))
