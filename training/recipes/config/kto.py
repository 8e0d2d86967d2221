"""The hyperparameters of KTO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import TrainingConfig

LOSS_TYPES = ("kto", "apo_zero_unpaired")


@dataclass(frozen=True, kw_only=True)
class KtoConfig(TrainingConfig):
    """Kahneman-Tversky Optimisation of single answers, wanted or not (Ethayarajh et al. 2024, eq. 7)."""

    title: ClassVar[str] = "KTO"
    unit: ClassVar[str] = "labels"
    # The KL is estimated on each prompt with another row's answer, so a batch needs another row.
    smallest_batch: ClassVar[int] = 2

    # What is minimised. Higher beta is a stronger pull (KL) towards the base.
    loss_type: str = "kto"
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    balance_labels: bool = True  # the rarer label weighs more, by as much as it is rarer (eq. 8)

    def problems(self) -> list[str]:
        found = super().problems()

        def check(name: str, holds: bool, rule: str, hint: str = "") -> None:
            self._check(found, name, holds, rule, hint)

        check("loss_type", self.loss_type in LOSS_TYPES, f"one of {', '.join(LOSS_TYPES)}")
        check("beta", 0 < self.beta <= 10, "in (0, 10]", "0.1 is usual; higher stays closer to the base.")
        check("desirable_weight", 0 < self.desirable_weight <= 100, "in (0, 100]")
        check("undesirable_weight", 0 < self.undesirable_weight <= 100, "in (0, 100]")
        check("batch_size", self.batch_size >= 2, "at least 2", "KTO compares rows within a batch.")
        return found
