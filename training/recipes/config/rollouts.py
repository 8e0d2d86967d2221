"""What the methods share that let the model answer prompts and learn from the scores: RLOO and PPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from training.recipes.config.base import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(TrainingConfig):
    """Answers are sampled from the policy while it learns. A row is a prompt; it needs no label."""

    unit: ClassVar[str] = "prompts"

    learning_rate: float = 2e-5
    lr_schedule: str = "constant_with_warmup"
    batch_size: int = 8  # answers in one forward pass
    gradient_accumulation: int = 4  # forward passes in one step: so many answers are made before each step
    max_new_tokens: int = 128  # of an answer; longer ones are cut
    temperature: float = 1.0  # other than 1 the answers are not the policy's own

    def problems(self) -> list[str]:
        found = super().problems()

        def check(name: str, holds: bool, rule: str, hint: str = "") -> None:
            self._check(found, name, holds, rule, hint)

        room = f"at least 1 and below max_length ({self.max_length})"
        check("max_new_tokens", 1 <= self.max_new_tokens < self.max_length, room, "Prompts need room too.")
        check("temperature", 0 < self.temperature <= 2, "in (0, 2]", "1 is usual.")
        return found

    def answers_a_step(self, processes: int = 1) -> int:
        """How many answers are made, scored and learned from in one step."""
        return self.batch_size * self.gradient_accumulation * processes

    def prompts_a_step(self, processes: int = 1) -> int:
        return self.answers_a_step(processes)

    def steps(self, rows: int, processes: int = 1) -> int:
        """Optimiser steps. Prompts that do not fill a last step are left for the next epoch's order."""
        steps = self.epochs * (rows // self.prompts_a_step(processes))
        return min(steps, self.max_steps) if self.max_steps else steps
