"""What a TRL trainer tells the run directory while it works: progress, checkpoints, a stop, a divergence."""

from __future__ import annotations

import json
import math
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from inference.artifact import write_atomically
from training.recipes.accounting import Compute
from training.recipes.meter import Meter
from training.recipes.rundir import Diverged, Interrupted, Run, is_main, leave_if_overtaken, processes

COMPLETE = "complete.json"  # written last into a checkpoint, with the account so far
# TRL's names of what people look at, and ours.
METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
    "accuracy": "reward_accuracy",
    "margin": "reward_margin",
    "mean_reward": "reward_mean",
    "kl": "kl",
    "reward": "reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "undecided_share",  # prompts whose answers all scored the same: nothing to learn
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "cut_share",
    "loss/policy_avg": "loss",
    "loss/value_avg": "value_loss",
    "objective/kl": "kl",
    "objective/scores": "reward",
    "policy/entropy_avg": "entropy",
    "policy/clipfrac_avg": "clipped_share",
    "lr": "learning_rate",
}


class Progress(TrainerCallback):
    """Writes events, marks checkpoints complete, stops on SIGTERM, and refuses to train on after a NaN."""

    def __init__(self, run: Run, compute: Compute, meter: Meter, *, resumes: bool) -> None:
        self._run = run
        self._compute = compute
        self._meter = meter
        self._resumes = resumes
        self._first_step = self._first_tokens = 0
        self._began = time.monotonic()
        self.last_metrics: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first_step, self._began = state.global_step, time.monotonic()
        self._first_tokens = self._compute.tokens["train"]
        self._run.emit(
            "started",
            step=state.global_step,
            total=state.max_steps,
            environment=environment(args.device.type),
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        said = {ours: logs[theirs] for theirs, ours in METRICS.items() if logs and theirs in logs}
        metrics = {name: float(value) for name, value in said.items() if value is not None}
        if "loss" not in metrics:
            return  # the summary at the end
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise Diverged(
                    f"{name} is {metrics[name]} at step {state.global_step} of {state.max_steps}. "
                    "Lower learning_rate, or raise warmup_ratio or beta."
                )
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._meter.flush()
        seconds = time.monotonic() - self._began
        done = state.global_step - self._first_step
        self.last_metrics = metrics
        self._run.emit(
            "progress",
            step=state.global_step,
            total=state.max_steps,
            metrics=metrics,
            tokens=self._compute.tokens,
            tokens_per_second=round((self._compute.tokens["train"] - self._first_tokens) / seconds, 1),
            seconds_left=round(seconds / done * (state.max_steps - state.global_step), 1),
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if _any_process(self._run.stop.is_set()):
            self._run.stop.set()
            if not self._resumes:
                step, steps = state.global_step, state.max_steps
                raise Interrupted(f"stopped by SIGTERM at step {step} of {steps}; the next start begins anew")
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._meter.flush()
        checkpoint = self._run.checkpoints / f"checkpoint-{state.global_step}"
        account = {"tokens": self._compute.tokens, "device_seconds": self._compute.device_seconds()}
        if is_main():
            leave_if_overtaken(self._run.folder)
            write_atomically(checkpoint / COMPLETE, json.dumps(account).encode())
        self._run.emit(
            "checkpoint", step=state.global_step, total=state.max_steps, path=f"checkpoints/{checkpoint.name}"
        )


def environment(device: str) -> dict[str, Any]:
    """What a run was made with, for its page: versions, device, processes."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    packages = {package: version(package) for package in ("torch", "transformers", "trl", "peft")}
    return {
        "python": platform.python_version(),
        **packages,
        "device": f"{device}, {name}",
        "processes": processes(),
    }


def run_trainer(
    run: Run, trainer: Any, compute: Compute, meter: Meter, *, resumes: bool = True, generates: bool = False
) -> dict[str, float]:
    """Train to the end, from the last whole checkpoint where there is one. The last step's metrics.

    A trainer that `generates` calls the model outside of autocast too.

    Raises Interrupted when SIGTERM came: then a checkpoint holds what was done, unless the trainer is one
    that cannot resume.
    """
    checkpoint, account = last_complete(run.checkpoints)
    if checkpoint is not None:
        compute.resume(account)
    progress = Progress(run, compute, meter, resumes=resumes)
    trainer.add_callback(progress)
    run.in_training = True
    # PEFT casts what an adapter reads to fp32, as its weights are; autocast casts it back to bf16.
    with disable_input_dtype_casting(trainer.model, active=trainer.args.bf16 and not generates):
        if resumes:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        else:
            trainer.train()
    run.in_training = False
    if run.stop.is_set():
        step, steps = trainer.state.global_step, trainer.state.max_steps
        raise Interrupted(f"stopped by SIGTERM at step {step} of {steps}; the next start goes on from there")
    return {f"train_{name}": value for name, value in progress.last_metrics.items()}


def last_complete(checkpoints: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest whole checkpoint and its account; half-written ones are removed."""
    whole: list[Path] = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            whole.append(folder)
        elif is_main():
            shutil.rmtree(folder)
    if not whole:
        return None, {}
    newest = max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]))
    account: dict[str, Any] = json.loads((newest / COMPLETE).read_bytes())
    return newest, account


def _any_process(value: bool) -> bool:
    """Whether it is true in any process of the run. Processes must stop at the same step."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    flag = torch.tensor(float(value))
    if torch.distributed.get_backend() != "gloo":
        flag = flag.cuda()
    torch.distributed.all_reduce(flag)
    return bool(flag.item() > 0)
