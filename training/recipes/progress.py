"""What a TRL trainer tells the run directory while it works: progress, checkpoints, a stop, a divergence."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from inference.artifact import write_atomically
from training.recipes.accounting import Compute
from training.recipes.rundir import Diverged, Run

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
}


class Progress(TrainerCallback):
    """Writes events, marks checkpoints complete, stops on SIGTERM, and refuses to train on after a NaN.

    `references_per_step`: whether each step also reads its tokens once by the reference.
    """

    def __init__(self, run: Run, compute: Compute, *, references_per_step: bool) -> None:
        self._run = run
        self._compute = compute
        self._references_per_step = references_per_step
        self._counted = 0  # training tokens that TRL reported in this attempt
        self._first_step = 0
        self._began = time.monotonic()
        self.last_metrics: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._first_step, self._began = state.global_step, time.monotonic()
        self._run.emit("started", step=state.global_step, total=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end
        metrics = {ours: float(logs[theirs]) for theirs, ours in METRICS.items() if theirs in logs}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise Diverged(
                    f"{name} is {metrics[name]} at step {state.global_step} of {state.max_steps}. "
                    "Lower learning_rate, or raise warmup_ratio or beta."
                )
        seen = int(logs["num_tokens"])  # both sides, without padding, since this attempt began
        self._compute.tokens["train"] += seen - self._counted
        if self._references_per_step:
            self._compute.tokens["reference"] += seen - self._counted
        self._counted = seen
        seconds = time.monotonic() - self._began
        done = state.global_step - self._first_step
        self.last_metrics = metrics
        self._run.emit(
            "progress",
            step=state.global_step,
            total=state.max_steps,
            metrics=metrics,
            tokens=self._compute.tokens,
            tokens_per_second=round(seen / seconds, 1),
            seconds_left=round(seconds / done * (state.max_steps - state.global_step), 1),
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._run.stop.is_set():
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        checkpoint = self._run.checkpoints / f"checkpoint-{state.global_step}"
        account = {"tokens": self._compute.tokens, "device_seconds": self._compute.device_seconds()}
        write_atomically(checkpoint / COMPLETE, json.dumps(account).encode())
        self._run.emit(
            "checkpoint", step=state.global_step, total=state.max_steps, path=f"checkpoints/{checkpoint.name}"
        )


def last_complete(checkpoints: Path) -> tuple[Path | None, dict[str, Any]]:
    """The newest whole checkpoint and its account; half-written ones are removed."""
    whole: list[Path] = []
    for folder in checkpoints.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    if not whole:
        return None, {}
    newest = max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]))
    account: dict[str, Any] = json.loads((newest / COMPLETE).read_bytes())
    return newest, account
