"""What the demo turns with: measured on 2 CPU cores, with what failed beside it.

Tried on 137 training and 72 gate prompts, all pairs of 4 answers, batches of 8 (win, loss, tie):

    short, all 30 layers, alpha 32, beta 0.1, no sft, 14 steps      8- 5-59  overshot: 5 words, broken
    short, last 12, alpha 32, beta 0.3, sft 0.5, 15 steps          42- 4-26  whole sentences; 69 % end
    short, last 8, alpha 64, beta 0.2, sft 0.3, 15 steps           46- 5-21  90 % end, 21 words
    short, last 12, alpha 64, beta 0.1, sft 0.2, 18 steps          51- 4-17  all end, 12 words
    short, the same with sft 0.3, on 150 gate prompts             125- 9-16  all end, 14 words
    personal, the same, on 110 gate prompts                        67-10-33  ties: neither says "you"
    plain words (Flesch), the same, on 150 gate prompts            96-34-20  holds, but less
    plain words, sft 0.2, 30 steps, on 150 gate prompts            96-45- 9  more steps: worse
    lists, last 12, alpha 32, beta 0.1, sft 0.5, 16 steps          21-17-34  dropped: the base makes too few
                                                                   lists at 64 tokens; it learned "1.11.11"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is asked of the model, and how it is trained."""

    answers_per_prompt: int
    concurrency: int  # answers in flight
    sampling: dict[str, Any]  # of all answers, so that both sides of the gate are sampled alike
    run_config: dict[str, Any]  # hyperparameters of the run; the rest takes its default


# Half of the prompts train and half are judged: 287 prompts leave about 143 for the gate.
GATE_SHARE = 0.5
PLAN = Plan(
    answers_per_prompt=4,
    concurrency=32,  # what the engine batches best
    # Both sides of the gate, the training answers and the background traffic are sampled alike. At 64 tokens
    # the base ends 12 % of its answers by itself (8 % at 48, 20 % at 96), and `short` learns from what ends.
    sampling={"temperature": 0.8, "top_p": 0.95, "max_tokens": 64},
    run_config={
        # The last 12 layers: the backward pass ends there. 8 CPU seconds a step, where all 30 took 13;
        # 85 seconds for the whole run on two idle cores.
        "last_layers": 12,
        # Twice the usual scale: the update is 0.6 % of the weights and a merge into bf16 loses a quarter of
        # it; with 32 it was 0.3 % and lost half.
        "lora_alpha": 64,
        "learning_rate": 1e-3,
        "warmup_ratio": 0.0,  # a warm-up's first step has a learning rate of 0, and there are 18 steps
        "beta": 0.1,
        "sft_weight": 0.3,  # without it both sides become unlikely, and answers fall apart
        "batch_size": 8,
        "max_length": 192,
        # `short` has some 120 pairs (ties and all-bad make none), `personal` 450: the same time for both.
        "epochs": 2,
        "max_steps": 18,
    },
)


def prompts() -> list[str]:
    """The questions that the demo begins with."""
    lines = (Path(__file__).parent / "prompts.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
