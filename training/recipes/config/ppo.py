"""The hyperparameters of PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.rollouts import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class PpoConfig(RolloutConfig):
    """Proximal Policy Optimisation against a reward model (Schulman et al. 2017; Ouyang et al. 2022)."""

    title: ClassVar[str] = "PPO"

    # In bf16 the likelihood of an answer is off by more than a step moves it, and the ratio is noise.
    precision: str = "fp32"
    # Reward of a token = -beta * log(p_policy / p_base), and at the end the score. Higher stays closer.
    beta: float = 0.05
    iterations: int = 2  # passes over the same answers
    epsilon: float = 0.2  # how far a token's likelihood may move in those, as a ratio
    value_epsilon: float = 0.2  # how far its value may move
    value_weight: float = 0.1  # of the value's loss beside the policy's
    gamma: float = 1.0  # discount a token
    lam: float = 0.95  # bias against variance of the advantages (Schulman et al. 2016, eq. 16)
    unfinished_penalty: float = 0.0  # taken from the score of an answer that did not end by itself

    def problems(self) -> list[str]:
        found = super().problems()

        def check(name: str, holds: bool, rule: str, hint: str = "") -> None:
            self._check(found, name, holds, rule, hint)

        check("beta", 0 <= self.beta <= 10, "in [0, 10]", "0.05 is usual; 0 trusts the reward model alone.")
        check("iterations", 1 <= self.iterations <= 16, "in [1, 16]")
        check("epsilon", 0 < self.epsilon < 1, "in (0, 1)", "0.2 is usual.")
        check("value_epsilon", 0 < self.value_epsilon <= 10, "in (0, 10]", "0.2 is usual.")
        check("value_weight", 0 < self.value_weight <= 10, "in (0, 10]", "0.1 is usual.")
        check("gamma", 0 < self.gamma <= 1, "in (0, 1]", "1 is usual.")
        check("lam", 0 <= self.lam <= 1, "in [0, 1]", "0.95 is usual.")
        check("unfinished_penalty", 0 <= self.unfinished_penalty <= 100, "in [0, 100]")
        return found
