"""The hyperparameters of DPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import TrainingConfig

LOSS_TYPES = ("sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down", "sigmoid_norm", "discopop")


@dataclass(frozen=True, kw_only=True)
class DpoConfig(TrainingConfig):
    """Direct Preference Optimisation with a LoRA adapter (Rafailov et al. 2023, arXiv:2305.18290, eq. 7)."""

    title: ClassVar[str] = "DPO"
    unit: ClassVar[str] = "pairs"

    # What is minimised. Higher beta is a stronger pull (KL) towards the base.
    loss_type: str = "sigmoid"
    beta: float = 0.1
    # Weight of the chosen answers' own likelihood (mean nats a token) beside the loss: it keeps answers whole
    # where DPO alone makes both sides unlikely (RPO, Pang et al. 2024, arXiv:2404.19733, eq. 2).
    sft_weight: float = 0.0
    # Weight of the tokens beyond the shorter answer's length (LD-DPO, Liu et al. 2024, arXiv:2409.06411): 1
    # is plain DPO, 0 looks at as many tokens of either side, so that length by itself wins nothing.
    length_weight: float = 1.0
    label_smoothing: float = 0.0  # only `robust` reads it: the probability that a label is flipped
    group_by_length: bool = True  # pairs of like length share a batch, so that little padding is computed
    precompute_reference: bool = False  # pays from the second epoch on

    def problems(self) -> list[str]:
        found = super().problems()

        def check(name: str, holds: bool, rule: str, hint: str = "") -> None:
            self._check(found, name, holds, rule, hint)

        check("loss_type", self.loss_type in LOSS_TYPES, f"one of {', '.join(LOSS_TYPES)}")
        check("beta", 0 < self.beta <= 10, "in (0, 10]", "0.1 is usual; higher stays closer to the base.")
        check("sft_weight", 0 <= self.sft_weight <= 10, "in [0, 10]", "0.1 to 1 is usual.")
        check("length_weight", 0 <= self.length_weight <= 1, "in [0, 1]", "1 is plain DPO.")
        check("label_smoothing", 0 <= self.label_smoothing < 0.5, "in [0, 0.5)")
        if self.label_smoothing and self.loss_type != "robust":
            found.append("label_smoothing is read by loss_type robust only. Choose robust or set it to 0.")
        return found
