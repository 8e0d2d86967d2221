"""The hyperparameters of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainingConfig):
    """Supervised fine-tuning of a LoRA adapter: the likelihood of the answers that people wrote or chose."""

    title: ClassVar[str] = "SFT"
    unit: ClassVar[str] = "answers"

    epochs: int = 2  # few answers are corrected by hand; the second reading still helps, a third repeats them
    group_by_length: bool = True  # answers of like length share a batch, so that little padding is computed
