"""The hyperparameters of continued pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Continued pretraining of a LoRA adapter on plain texts: the next token, everywhere."""

    title: ClassVar[str] = "pretraining"
    unit: ClassVar[str] = "texts"
    fewest: ClassVar[int] = 1  # one long text is many blocks

    lora_r: int = 32  # facts take more room than a manner of speaking
    lora_alpha: int = 64
