"""What a run costs: tokens by role, FLOPs, petaflop/s-days, device seconds, peak memory. Imports no torch.

FLOPs of one token, with L the weights of the decoder's matrices (a head, but no embedding, included),
T those at or above the first trained layer, A the adapter's weights; a product costs 2 FLOPs a weight:

    reference, held out   2 L                       forward, no adapter
    train, forward        2 L + 2 A
    train, backward       2 T + 2 A   +   2 A       for activations; for weights, of the adapter alone
    with checkpointing    + 2 T + 2 A               the forward pass once more

Attention's own products (under 3 % at 128 tokens) and the optimiser are left out, and padding is not work.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

PF_DAY = 1e15 * 86400  # FLOPs in one petaflop/s-day


@dataclass(frozen=True)
class Weights:
    """How many weights take part in what (see above)."""

    matrices: int  # L
    trained_upwards: int  # T
    adapter: int  # A


@dataclass
class Compute:
    """The running account of a run, over all its attempts. Tokens are real ones, without padding."""

    weights: Weights
    gradient_checkpointing: bool
    tokens: dict[str, int] = field(default_factory=lambda: {"train": 0, "reference": 0, "heldout": 0})
    earlier_seconds: float = 0.0  # device seconds of the attempts before this one
    started: float = field(default_factory=time.monotonic)

    def flops(self) -> float:
        """FLOPs so far, by the formula above."""
        w = self.weights
        forward = 2.0 * w.matrices
        backward = 2.0 * w.trained_upwards + 2 * w.adapter
        train = forward + 2 * w.adapter + backward + 2 * w.adapter
        if self.gradient_checkpointing:
            train += backward
        # Held-out pairs are read twice, by the policy and by the reference; their tokens are counted twice.
        return train * self.tokens["train"] + forward * (self.tokens["reference"] + self.tokens["heldout"])

    def device_seconds(self) -> float:
        """Seconds that the one device was held, loading included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def facts(self, peak_memory_bytes: int) -> dict[str, Any]:
        """As they go into the finished event and the manifest."""
        flops = self.flops()
        return {
            "tokens": dict(self.tokens),
            "flops": flops,
            "pf_days": flops / PF_DAY,
            "device_seconds": round(self.device_seconds(), 3),
            "peak_memory_bytes": peak_memory_bytes,
            "weights": asdict(self.weights),
        }


def peak_host_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
