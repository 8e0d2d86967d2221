"""What the demo turns with. The numbers were measured on 2 CPU cores; what failed is said beside them."""

from __future__ import annotations

from typing import Any

# Half of the prompts train and half are judged: 287 prompts leave about 143 for the gate.
GATE_SHARE = 0.5
# Both sides of the gate, the training answers and the background traffic are sampled alike. At 64 tokens the
# base ends 12 % of its answers by itself (8 % at 48, 20 % at 96), and a taste needs some of both to see.
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 64}
ANSWERS_PER_PROMPT = 4
CONCURRENCY = 16  # requests in flight

RUN_CONFIG: dict[str, Any] = {
    "learning_rate": 1e-3,
    "warmup_ratio": 0.0,  # the first step of a warm-up has a learning rate of 0, and there are some 15 steps
    "beta": 0.3,
    "sft_weight": 0.5,
    "last_layers": 12,
    "batch_size": 8,
    "max_length": 192,
}
