"""What a user would write without us: DPO of a LoRA adapter with TRL alone, on the rows of a run directory.

    python -m bench._bare_trl RUN_DIR OUT.json

The same data in the same order, arguments and seed; it saves the adapter, and there are no events, account,
checkpoints or probes. Our collator ends an answer where serving ended it (TRL's template adds a line break),
so that both train the same tokens. It writes the loss of each step and the seconds of training.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> int:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    spec: dict[str, Any] = json.loads((folder / "run.json").read_text())
    given: dict[str, Any] = json.loads((folder / "order.json").read_text())
    config = spec["config"]

    import torch
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    from training.recipes.pairs import EndAwareCollator
    from training.recipes.rundir import keep_freed_memory

    disable_progress_bars()
    set_seed(spec["seed"])
    keep_freed_memory()  # one call of malloc's, so that the comparison is of trainers
    base = spec["base"]["path"]
    bf16 = config["precision"] == "bf16"
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16 if bf16 else torch.float32, attn_implementation="sdpa"
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = given["rows"]
    steps = given["steps"]
    arguments = DPOConfig(
        output_dir=str(out.with_suffix("")), optim="adamw_torch", learning_rate=config["learning_rate"],
        lr_scheduler_type=config["lr_schedule"], warmup_steps=given["warmup"],
        max_grad_norm=config["max_grad_norm"],
        per_device_train_batch_size=config["batch_size"], max_steps=steps,
        gradient_accumulation_steps=config["gradient_accumulation"], gradient_checkpointing=False,
        beta=config["beta"], max_length=config["max_length"], truncation_mode="keep_start", bf16=bf16,
        use_cpu=spec["resources"]["device"] == "cpu", seed=spec["seed"], data_seed=spec["seed"],
        train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False, disable_dropout=True,
        remove_unused_columns=False,
    )  # fmt: skip
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=config["lora_r"], lora_alpha=config["lora_alpha"],
        target_modules=config["target_modules"], lora_dropout=0.0,
    )  # fmt: skip
    collator = EndAwareCollator(
        pad_token_id=tokenizer.pad_token_id, max_length=config["max_length"], truncation_mode="keep_start",
        end_ids=frozenset({tokenizer.eos_token_id}),
    )  # fmt: skip
    trainer = DPOTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora, data_collator=collator,
    )  # fmt: skip
    began = time.monotonic()
    trainer.train()
    done = time.monotonic()
    trainer.save_model(str(out.with_suffix("")))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    out.write_text(json.dumps({"losses": losses, "train": done - began}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
