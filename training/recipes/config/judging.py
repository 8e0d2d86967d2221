"""The hyperparameters of the runs that judge and train nothing: score and evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import Config


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Config):
    """A score for each answer: by a reward model, or its mean log likelihood under a version or the base."""

    title: ClassVar[str] = "scoring"
    unit: ClassVar[str] = "answers"

    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """A version beside the base on frozen texts, on pairs of answers, and by a reward model."""

    title: ClassVar[str] = "evaluation"
    unit: ClassVar[str] = "examples"

    batch_size: int = 16
