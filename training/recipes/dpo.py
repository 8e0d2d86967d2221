"""Direct Preference Optimisation of a LoRA adapter on preference pairs (Rafailov et al. 2023).

    python -m training.recipes.dpo RUN_DIR

Reads RUN_DIR/run.json and RUN_DIR/dataset/, writes events, checkpoints and RUN_DIR/artifact/ (see
rundir.py). Exit codes: 0 finished, 65 wrong input, 70 a fault, 71 out of memory, 72 diverged, 74 disk full,
75 interrupted (start it again and it goes on). Safe to run twice.

Left out: full-weight training, several devices, a reference other than the base.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from inference.artifact import ArtifactError, digest_of, verify
from training.recipes.accounting import Compute, peak_host_memory
from training.recipes.config import ConfigError, DpoConfig
from training.recipes.preflight import preflight
from training.recipes.rundir import BadBase, BadData, BadRun, Interrupted, Run, keep_freed_memory, run_recipe


def main() -> int:
    """Parse the one argument, run, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.recipes.dpo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    return run_recipe(parser.parse_args().run_dir.resolve(), "dpo", train)


def train(run: Run) -> None:
    """The whole recipe, from the checked inputs to the published artifact."""
    # ---- Arguments: all of them come from run.json.
    try:
        config = DpoConfig.from_dict(run.spec.config)
    except ConfigError as error:
        raise BadRun(str(error)) from error
    if problems := config.problems():
        raise BadRun(" ".join(problems))
    try:
        verify(run.spec.base_path, expected_digest=run.spec.base_digest)
    except ArtifactError as error:
        raise BadBase(str(error)) from error
    try:
        verify(run.dataset, expected_digest=run.spec.dataset_digest)
    except ArtifactError as error:
        raise BadData(str(error)) from error

    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from transformers.utils.logging import disable_progress_bar
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from training.recipes.pairs import (
        EndAwareCollator,
        count_tokens,
        longest,
        preference_accuracy,
        read_rows,
        tokenize,
        training_order,
    )
    from training.recipes.progress import Progress, last_complete
    from training.recipes.publish import publish_adapter, update_sizes
    from training.recipes.weights import count_weights

    datasets.disable_progress_bars()
    disable_progress_bar()
    set_seed(run.spec.seed)
    if run.spec.threads:
        torch.set_num_threads(run.spec.threads)
    use_cpu = run.spec.device == "cpu" or (run.spec.device == "auto" and not torch.cuda.is_available())
    if use_cpu:
        keep_freed_memory()
    bf16 = config.precision == "bf16"

    # ---- Model: frozen base weights, in bf16 when products are. PEFT keeps the adapter in fp32 either way:
    # steps of 1e-3 and less vanish in bf16 weights.
    tokenizer = AutoTokenizer.from_pretrained(run.spec.base_path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        run.spec.base_path,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
    )
    layers = int(model.config.num_hidden_layers)
    if config.last_layers > layers:
        raise BadRun(f"last_layers is {config.last_layers}, the base has {layers} layers")
    trained_layers = list(range(layers - config.last_layers, layers)) if config.last_layers else None
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        layers_to_transform=trained_layers,
        bias="none",
        init_lora_weights=True,
    )

    # ---- Data: tokens as serving makes them, batches of like length.
    configured_ends = model.generation_config.eos_token_id
    end_ids = set(configured_ends if isinstance(configured_ends, list) else [configured_ends])
    end_ids = (end_ids | {tokenizer.eos_token_id}) - {None}
    rows = tokenize(read_rows(run.dataset, "train"), tokenizer, end_ids)
    heldout = tokenize(read_rows(run.dataset, "heldout"), tokenizer, end_ids)
    lengths = [longest(row) for row in rows]
    if problems := preflight(config, {"train": len(rows), "heldout": len(heldout)}, lengths):
        raise BadData(" ".join(problems))
    rows = [row for row in rows if len(row["prompt_ids"]) < config.max_length]  # nothing left to learn from
    heldout = [row for row in heldout if len(row["prompt_ids"]) < config.max_length]
    lengths = [longest(row) for row in rows]
    order = training_order(lengths, config.batch_size, run.spec.seed, group_by_length=config.group_by_length)
    columns = ("prompt", "chosen", "rejected", "chosen_ended", "rejected_ended")
    dataset = datasets.Dataset.from_list([{name: rows[index][name] for name in columns} for index in order])
    collator = EndAwareCollator(
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        max_length=config.max_length,
        truncation_mode="keep_start",
        end_ids=frozenset(end_ids),
    )

    # ---- Training.
    steps = config.steps(len(rows))
    arguments = DPOConfig(
        output_dir=str(run.checkpoints),
        # the loss
        loss_type=[config.loss_type, "sft"] if config.sft_weight else [config.loss_type],
        loss_weights=[1.0, config.sft_weight] if config.sft_weight else [1.0],
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        f_divergence_type="reverse_kl",
        disable_dropout=config.lora_dropout == 0,
        precompute_ref_log_probs=config.precompute_reference,
        precompute_ref_batch_size=config.batch_size,
        # the optimiser
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_schedule,
        warmup_steps=math.ceil(config.warmup_ratio * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        # the data
        max_length=config.max_length,
        truncation_mode="keep_start",
        train_sampling_strategy="sequential",  # the order was made above
        remove_unused_columns=False,  # the collator reads *_ended
        dataloader_num_workers=0,
        dataloader_pin_memory=not use_cpu,
        dataloader_drop_last=False,
        # the machine
        use_cpu=use_cpu,
        bf16=bf16,
        fp16=False,
        gradient_checkpointing=config.gradient_checkpointing,
        seed=run.spec.seed,
        data_seed=run.spec.seed,
        # what is kept and told: all of it goes through Progress
        save_strategy="steps",
        save_steps=config.save_steps or max(1, math.ceil(steps / 4)),
        save_total_limit=2,
        eval_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a divergence behind the last good loss
        report_to=[],
        disable_tqdm=True,
        push_to_hub=False,
    )
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        processing_class=tokenizer,
        peft_config=lora,
    )
    policy: Any = trainer.model
    compute = Compute(count_weights(policy), config.gradient_checkpointing)
    checkpoint, account = last_complete(run.checkpoints)
    if checkpoint is not None:
        compute.tokens.update(account["tokens"])
        compute.earlier_seconds = account["device_seconds"]
    elif config.precompute_reference:
        compute.tokens["reference"] += count_tokens(rows, config.max_length)
    progress = Progress(run, compute, references_per_step=not config.precompute_reference)
    trainer.add_callback(progress)
    run.in_training = True
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    run.in_training = False
    if run.stop.is_set():
        step = trainer.state.global_step
        raise Interrupted(f"stopped by SIGTERM at step {step} of {steps}; the next start goes on from there")

    # ---- Evidence: by example, never TRL's means over batches.
    metrics = {**update_sizes(policy), **{f"train_{k}": v for k, v in progress.last_metrics.items()}}
    if heldout:
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=bf16):
            found = preference_accuracy(policy, heldout, collator, config.batch_size, policy.device)
        compute.tokens["heldout"] += 2 * count_tokens(heldout, config.max_length)
        metrics |= {
            "heldout_pairs": found["pairs"],
            "heldout_accuracy_before": 0.5,  # by definition: without an adapter all rewards are 0
            "heldout_accuracy": found["accuracy"],
            "heldout_margin": found["margin"],
        }

    # ---- Save.
    peak = peak_host_memory() if use_cpu else int(torch.cuda.max_memory_allocated())
    costs = compute.facts(peak)
    manifest = publish_adapter(
        run,
        policy,
        rows[0]["prompt_ids"],
        card=card(run, config, metrics),
        facts={
            "method": "dpo",
            "run": run.spec.run,
            "run_id": run.spec.id,
            "dataset": run.spec.dataset_digest,
            "config": config.to_dict(),
            "config_digest": digest_of(config.to_dict()),
            "seed": run.spec.seed,
            "pairs": len(rows),
            "metrics": metrics,
            "compute": costs,
        },
    )
    run.emit(
        "finished",
        step=steps,
        total=steps,
        metrics=metrics,
        tokens=costs["tokens"],
        compute=costs,
        digest=manifest["digest"],
    )


def card(run: Run, config: DpoConfig, metrics: dict[str, float]) -> str:
    """README.md of the adapter: what it is and where it comes from. Stands alone, names no machine."""
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {run.spec.base_path.name}",
        "tags: [lora, dpo]",
        "---",
        f"# {run.spec.run}",
        "",
        f"A LoRA adapter on `{run.spec.base_path.name}`, trained with Direct Preference Optimisation.",
        "",
        f"- base `{run.spec.base_digest}`",
        f"- dataset `{run.spec.dataset_digest}`",
        f"- run `{run.spec.id}`, seed {run.spec.seed}",
        "",
        "| hyperparameter | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in config.to_dict().items()),
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in metrics.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
