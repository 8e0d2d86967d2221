"""The hyperparameters of a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RewardConfig(TrainingConfig):
    """A reward model on preference pairs: score(chosen) above score(rejected) (Ouyang et al. 2022, eq. 1)."""

    title: ClassVar[str] = "reward modelling"
    unit: ClassVar[str] = "pairs"

    # Weight of the squared sum of both scores: keeps them around zero, where nothing but their difference is
    # learned otherwise (Eisenstein et al. 2023, arXiv:2312.09244, section 2).
    center_rewards: float = 0.01
    use_margins: bool = True  # chosen must lead by the pair's `margin` (Touvron et al. 2023, section 3.2.2)
    group_by_length: bool = True  # pairs of like length share a batch, so that little padding is computed

    def problems(self) -> list[str]:
        found = super().problems()
        self._check(found, "center_rewards", 0 <= self.center_rewards <= 1, "in [0, 1]", "0.01 is usual.")
        return found
