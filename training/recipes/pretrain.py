"""Continued pretraining of a LoRA adapter on plain texts that nobody labelled.

    python -m training.recipes.pretrain RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/ (format text), writes events, checkpoints and RUN_DIR/artifact/.
Exit codes, resuming and several devices are as for dpo.py. The texts are laid end to end, in the order of the
seed, and cut into blocks of max_length tokens, so that no token is padding and none is left out.

Left out: full-weight training; attention that stops at the end of a text (a block may hold several).
"""

from __future__ import annotations

import math
import sys
from typing import Any

from training.recipes.command import run_from_shell
from training.recipes.config import PretrainConfig
from training.recipes.inputs import check_inputs, read_config
from training.recipes.preflight import preflight
from training.recipes.rundir import BadData, Run, is_main, processes


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    config = read_config(run, PretrainConfig)
    check_inputs(run)

    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

    from training.recipes.accounting import Compute
    from training.recipes.arguments import shared_arguments
    from training.recipes.device import load_model, load_tokens, lora_config, open_device
    from training.recipes.likelihood import judged_tokens, log_likelihoods
    from training.recipes.meter import Meter
    from training.recipes.progress import run_trainer
    from training.recipes.publish import publish, update_sizes
    from training.recipes.rows import read_format, training_order
    from training.recipes.weights import count_weights

    # ---- Model.
    device = open_device(run, config)
    model = load_model(run, device)
    tokens = load_tokens(run)
    lora = lora_config(config, model)

    # ---- Data: blocks. Between two texts stands a token that no chat uses, which is read and not learned.
    def read(part: str) -> list[list[int]]:
        rows = read_format(run.dataset, part, "text")
        return [list(tokens.tokenizer(row["text"], add_special_tokens=False)["input_ids"]) for row in rows]

    texts = read("train")
    heldout = [(ids[: config.max_length], 1) for ids in read("heldout") if len(ids) > 1]
    if problems := preflight(config, {"train": len(texts), "heldout": len(heldout)}):
        raise BadData(" ".join(problems))
    order = training_order([0] * len(texts), config.batch_size, run.spec.seed, group_by_length=False)
    stream = [token for index in order for token in (*texts[index], tokens.pad_id)]
    blocks = [stream[at : at + config.max_length] for at in range(0, len(stream), config.max_length)]
    if len(blocks[-1]) < 2:  # nothing to foretell
        blocks.pop()
    if len(blocks) < config.batch_size:
        raise BadData(
            f"The texts have {len(stream)} tokens in all: {len(blocks)} block(s) of max_length "
            f"{config.max_length}, and a batch is {config.batch_size}. Add texts, or lower either."
        )
    dataset = Dataset.from_list(
        [
            {"input_ids": block, "labels": [-100 if token == tokens.pad_id else token for token in block]}
            for block in blocks
        ]
    )

    # ---- Training.
    steps = config.steps(len(blocks), processes())
    arguments = SFTConfig(
        **shared_arguments(run, config, device, steps),
        loss_type="nll",
        max_length=None,  # cut above
        packing=False,
        padding_free=False,
        completion_only_loss=False,
        assistant_only_loss=False,
        shuffle_dataset=False,
        train_sampling_strategy="random",
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

    # ---- Evidence: nats a token of held-out texts, with the adapter and without it.
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
            "heldout_texts": len(heldout),
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
        probe_ids=blocks[0],
        rows=len(texts),
        metrics=metrics,
        lineage={"blocks": len(blocks)},
    )


if __name__ == "__main__":
    sys.exit(run_from_shell("pretrain", train, __doc__))
