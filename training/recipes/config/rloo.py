"""The hyperparameters of RLOO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.rollouts import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class RlooConfig(RolloutConfig):
    """REINFORCE with the other answers to a prompt as baseline (Ahmadian et al. 2024, arXiv:2402.14740)."""

    title: ClassVar[str] = "RLOO"

    generations: int = 4  # answers to each prompt
    # Reward = score - beta * log(p_policy / p_base) of the answer. Higher stays closer to the base.
    beta: float = 0.05
    iterations: int = 1  # steps on the same answers
    epsilon: float = 0.2  # how far the likelihood of an answer may move in those, as a ratio
    normalize_advantages: bool = False
    mask_cut_answers: bool = False  # learn nothing from answers that were cut at max_new_tokens

    def problems(self) -> list[str]:
        found = super().problems()

        def check(name: str, holds: bool, rule: str, hint: str = "") -> None:
            self._check(found, name, holds, rule, hint)

        check("generations", 2 <= self.generations <= 64, "in [2, 64]", "The others are the baseline.")
        check("beta", 0 <= self.beta <= 10, "in [0, 10]", "0.05 is usual; 0 trusts the reward model alone.")
        check("iterations", 1 <= self.iterations <= 16, "in [1, 16]")
        check("epsilon", 0 < self.epsilon < 1, "in (0, 1)", "0.2 is usual.")
        if self.generations and self.answers_a_step() % self.generations:
            found.append(
                f"batch_size times gradient_accumulation is {self.answers_a_step()}, which is no multiple of "
                f"generations ({self.generations}). Set gradient_accumulation to a multiple of generations."
            )
        return found

    def prompts_a_step(self, processes: int = 1) -> int:
        return max(1, self.answers_a_step(processes) // self.generations)

    def steps(self, rows: int, processes: int = 1) -> int:
        steps = self.epochs * self.iterations * (rows // self.prompts_a_step(processes))
        return min(steps, self.max_steps) if self.max_steps else steps
