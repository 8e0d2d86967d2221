"""What every trainer is told in the same way. Written out, so that no default of a library decides."""

from __future__ import annotations

import math
from typing import Any

from training.recipes.config import TrainingConfig
from training.recipes.device import Device
from training.recipes.rundir import Run


def shared_arguments(run: Run, config: TrainingConfig, device: Device, steps: int) -> dict[str, Any]:
    """Keyword arguments of any of TRL's configs, for a run of so many steps."""
    return {
        "output_dir": str(run.checkpoints),
        # the optimiser
        "optim": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_schedule,
        "warmup_steps": math.ceil(config.warmup_ratio * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "num_train_epochs": config.epochs,
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        # the data
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not device.use_cpu,
        "dataloader_drop_last": False,
        # the machine
        "use_cpu": device.use_cpu,
        "bf16": device.bf16,
        "fp16": False,
        "gradient_checkpointing": config.gradient_checkpointing,
        "seed": run.spec.seed,
        "data_seed": run.spec.seed,
        "ddp_find_unused_parameters": False,
        # what is kept and told: all of it goes through Progress
        "save_strategy": "steps",
        "save_steps": config.save_steps or max(1, math.ceil(steps / 4)),
        "save_total_limit": 2,
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide a divergence behind the last good loss
        "report_to": [],
        "disable_tqdm": True,
        "push_to_hub": False,
    }
