"""What the hyperparameters of all methods share: how they are read and judged, and the LoRA."""

from __future__ import annotations

import difflib
import math
import types
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

PRECISIONS = ("bf16", "fp32")
# What an adapter is made of: a run that goes on with one cannot choose these anew.
ADAPTER_SHAPE = ("lora_r", "lora_alpha", "lora_dropout", "target_modules", "last_layers")
SCHEDULES = ("constant", "constant_with_warmup", "cosine", "linear")
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class ConfigError(ValueError):
    """A hyperparameter is unknown, of the wrong type or out of range; the message says what to write."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters of one method."""

    title: ClassVar[str]  # what people call the method
    unit: ClassVar[str]  # what a row of its dataset is, in the plural
    fewest: ClassVar[int] = 1  # rows; below it the run would learn or say nothing
    smallest_batch: ClassVar[int] = 1

    precision: str = "bf16"  # bf16: base weights and products in bf16, adapter and optimiser in fp32
    batch_size: int = 8  # rows in one forward pass
    # Tokens of prompt and answer together. Longer ones are cut at the end.
    max_length: int = 1024

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, partial: bool = False) -> Self:
        """The config that `values` spell. Raises ConfigError for unknown names, missing ones and wrong types.

        With `partial`, what is missing takes its default: for people and policies, never for a run.json.
        """
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise ConfigError(f"{name} is no hyperparameter of {cls.title}.{_did_you_mean(name, known)}")
        missing = sorted(known - values.keys())
        if missing and not partial:
            raise ConfigError(f"run.json must write out every hyperparameter; missing: {', '.join(missing)}")
        hints = typing.get_type_hints(cls)
        return cls(**{name: _typed(name, value, hints[name]) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Every hyperparameter by name, as it goes into run.json."""
        return asdict(self)

    def problems(self) -> list[str]:
        """What is out of range, a sentence each. Empty when the config can run."""
        found: list[str] = []
        self._check(found, "precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        self._check(found, "batch_size", 1 <= self.batch_size <= 1024, "in [1, 1024]")
        self._check(found, "max_length", 16 <= self.max_length <= 131072, "in [16, 131072]")
        return found

    def steps(self, rows: int, processes: int = 1) -> int:
        """Events of progress in a run over so many rows."""
        return math.ceil(rows / (self.batch_size * processes))

    def with_half_the_batch(self) -> Self | None:
        """The same with half of the memory, after a lack of it. None where the batch cannot be smaller."""
        if self.batch_size // 2 < self.smallest_batch:
            return None
        return replace(self, batch_size=self.batch_size // 2)

    def _check(self, found: list[str], name: str, holds: bool, rule: str, hint: str = "") -> None:
        if not holds:
            found.append(f"{name} must be {rule}, got {getattr(self, name)}.{hint and ' ' + hint}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """What every method that trains a LoRA adapter reads."""

    fewest: ClassVar[int] = 16  # fewer, and one step sees everything: the rows are learned, and no taste

    # What is trained: LoRA, update = (lora_alpha / lora_r) * B A on each target module.
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: list(ALL_LINEAR))
    last_layers: int = 0  # train only the last k layers; 0 is all. The backward pass ends where they begin
    # How. The learning rate is for LoRA on a model of some hundred million weights; larger models take less.
    learning_rate: float = 1e-4
    lr_schedule: str = "linear"
    warmup_ratio: float = 0.1  # share of all steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: int = 1
    max_steps: int = 0  # stop after so many, on rows drawn at random; 0: all epochs to their end
    gradient_accumulation: int = 1  # forward passes in one step
    gradient_checkpointing: bool = False  # a second forward pass in exchange for memory
    # A checkpoint each so many steps; 0: four in a run. SIGTERM always writes one.
    save_steps: int = 0

    def problems(self) -> list[str]:
        found = super().problems()

        def check(name: str, holds: bool, rule: str, hint: str = "") -> None:
            self._check(found, name, holds, rule, hint)

        check("lora_r", 1 <= self.lora_r <= 256, "in [1, 256]")
        check("lora_alpha", self.lora_alpha >= 1, "at least 1", "Twice lora_r is usual.")
        check("lora_dropout", 0 <= self.lora_dropout < 1, "in [0, 1)")
        check("target_modules", bool(self.target_modules), "a list of at least one module")
        check("last_layers", self.last_layers >= 0, "0 (all layers) or more")
        check("learning_rate", 0 < self.learning_rate < 0.1, "in (0, 0.1)", "1e-4 is usual for LoRA.")
        check("lr_schedule", self.lr_schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        hint = "Did you mean warmup_steps? Give the share of all steps." if self.warmup_ratio >= 1 else ""
        check("warmup_ratio", 0 <= self.warmup_ratio < 1, "in [0, 1)", hint)
        check("weight_decay", 0 <= self.weight_decay < 1, "in [0, 1)")
        check("max_grad_norm", self.max_grad_norm > 0, "above 0")
        check("epochs", 1 <= self.epochs <= 100, "in [1, 100]")
        check("max_steps", self.max_steps >= 0, "0 (no limit) or more")
        check("gradient_accumulation", 1 <= self.gradient_accumulation <= 1024, "in [1, 1024]")
        check("save_steps", self.save_steps >= 0, "0 (four in a run) or more")
        return found

    def with_half_the_batch(self) -> Self | None:
        """The same rows a step, in smaller bites."""
        half = super().with_half_the_batch()
        return half and replace(half, gradient_accumulation=half.gradient_accumulation * 2)

    def steps(self, rows: int, processes: int = 1) -> int:
        """Optimiser steps for so many training rows; the last batch and the last step may be smaller."""
        batches = math.ceil(rows / (self.batch_size * processes))
        steps = self.epochs * math.ceil(batches / self.gradient_accumulation)
        return min(steps, self.max_steps) if self.max_steps else steps


def _typed(name: str, value: Any, expected: Any) -> Any:
    """`value` as the declared type. An integer passes for a float; nothing else is bent."""
    if isinstance(expected, types.GenericAlias):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return list(value)
        raise ConfigError(f"{name} must be a list of texts, got {value!r}")
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected or (expected is float and not math.isfinite(value)):
        raise ConfigError(f"{name} must be of type {expected.__name__}, got {value!r}")
    return value


def _did_you_mean(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else f" Known are: {', '.join(sorted(known))}."
