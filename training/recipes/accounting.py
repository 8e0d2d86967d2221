"""What a run costs: tokens by role, FLOPs, petaflop/s-days, device seconds, peak memory. Imports no torch.

FLOPs of one token, with L the weights of the decoder's matrices (a head, but no embedding, included),
T those at or above the first trained layer, A the adapter's weights; a product costs 2 FLOPs a weight:

    reference, held out   2 L                       forward, no adapter
    generation, reward    2 L + 2 A                 forward with one; L and A of the reward model are its own
    train, value          2 L + 2 A                 forward
                          2 T + 2 A   +   2 A       backward: activations; adapter's weights
    with checkpointing    + 2 T + 2 A               the forward pass once more

Attention's own products (under 3 % at 128 tokens) and the optimiser are left out, and padding is not work.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PF_DAY = 1e15 * 86400  # FLOPs in one petaflop/s-day

TRAINED = ("train", "value")  # roles whose tokens go forward and backward
WITHOUT_ADAPTER = ("reference", "heldout")


@dataclass(frozen=True)
class Weights:
    """How many weights take part in what (see above)."""

    matrices: int  # L
    trained_upwards: int  # T
    adapter: int  # A

    def flops(self, role: str, *, gradient_checkpointing: bool = False) -> float:
        """FLOPs of one token in this role."""
        forward = 2.0 * self.matrices
        if role in WITHOUT_ADAPTER:
            return forward
        forward += 2 * self.adapter
        if role not in TRAINED:
            return forward
        backward = 2.0 * self.trained_upwards + 2 * self.adapter
        again = backward if gradient_checkpointing else 0
        return forward + backward + 2 * self.adapter + again


@dataclass
class Compute:
    """The running account of a run, over all its attempts. Tokens are real ones, without padding."""

    weights: Weights
    gradient_checkpointing: bool = False
    # Of the models that are not the policy, by the role that they play.
    others: Mapping[str, Weights] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=lambda: {"train": 0, "reference": 0, "heldout": 0})
    processes: int = 1  # each holds a device
    earlier_seconds: float = 0.0  # device seconds of the attempts before this one
    started: float = field(default_factory=time.monotonic)

    def flops_by_role(self) -> dict[str, float]:
        """FLOPs so far, by the formula above."""
        return {
            role: count
            * self.others.get(role, self.weights).flops(
                role, gradient_checkpointing=self.gradient_checkpointing
            )
            for role, count in self.tokens.items()
        }

    def flops(self) -> float:
        # Held-out rows are read twice, by the policy and by the reference; their tokens are counted twice.
        return sum(self.flops_by_role().values())

    def device_seconds(self) -> float:
        """Seconds that the devices were held, loading included."""
        return self.earlier_seconds + self.processes * (time.monotonic() - self.started)

    def resume(self, account: Mapping[str, Any]) -> None:
        """Go on counting where a checkpoint's account ended."""
        self.tokens.update(account["tokens"])
        self.earlier_seconds = account["device_seconds"]

    def facts(self, peak_memory_bytes: int) -> dict[str, Any]:
        """As they go into the finished event and the manifest."""
        flops = self.flops()
        return {
            "tokens": dict(self.tokens),
            "flops": flops,
            "flops_by_role": self.flops_by_role(),
            "pf_days": flops / PF_DAY,
            "device_seconds": round(self.device_seconds(), 3),
            "processes": self.processes,
            "peak_memory_bytes": peak_memory_bytes,
            "weights": asdict(self.weights),
        }


def peak_host_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
