"""What a run will take, before it is queued: tokens by role, FLOPs, seconds, memory. Imports no torch.

Counted as the account counts it afterwards (accounting.py); what is not known before is assumed: how long the
rows are, that answers are as long as they may be, and how fast the device is. The memory is one process's:

    weights        each model that is held, in the dtype of the config
    adapter        16 bytes a weight: itself, its gradient and two moments, in fp32
    activations    a layer keeps about 16 hidden and 6 intermediate vectors a token until its backward pass
    logits         four vectors of the vocabulary a token, in fp32: they, their logarithms, and the gradients

On the default model DPO of eight short pairs was measured at 5.4 GB in fp32; this says 5.9.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.recipes.accounting import PF_DAY, Weights
from training.recipes.config import (
    Config,
    DpoConfig,
    KtoConfig,
    PpoConfig,
    RewardConfig,
    RlooConfig,
    RolloutConfig,
    TrainingConfig,
)

# FLOP/s that training reached where it was measured; a project's own last run knows better.
CPU_CORE_SPEED = 7e10
GPU_SPEED = 1.5e14
PROCESS_BYTES = 500_000_000  # Python, torch and the libraries


@dataclass(frozen=True)
class ModelFacts:
    """A Llama-shaped base, from its config.json."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def read(cls, base: Path) -> ModelFacts:
        """Raises OSError, KeyError or ValueError for a base that is not of this shape."""
        raw: dict[str, Any] = json.loads((base / "config.json").read_bytes())
        heads = int(raw["num_attention_heads"])
        return cls(
            hidden=int(raw["hidden_size"]),
            intermediate=int(raw["intermediate_size"]),
            layers=int(raw["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
            vocabulary=int(raw["vocab_size"]),
        )

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each matrix of a layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def weights(self, config: Config, *, head: int) -> Weights:
        """With the adapter that `config` trains; the head makes `head` numbers a token."""
        shapes = self.shapes()
        layer = sum(one * other for one, other in shapes.values())
        top = self.hidden * head
        if not isinstance(config, TrainingConfig):
            return Weights(layer * self.layers + top, layer * self.layers + top, 0)
        trained = config.last_layers or self.layers
        adapter = sum(config.lora_r * sum(shapes[name]) for name in config.target_modules if name in shapes)
        return Weights(layer * self.layers + top, layer * trained + top, adapter * trained)


@dataclass(frozen=True)
class Estimate:
    """What a run will take, all its devices together but for the memory, which is one's."""

    tokens: dict[str, int]
    flops: float
    seconds: float
    memory_bytes: int

    @property
    def pf_days(self) -> float:
        return self.flops / PF_DAY

    def in_words(self) -> str:
        minutes = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        tokens = sum(self.tokens.values())
        return f"about {minutes}, {self.memory_bytes / 1e9:.1f} GB, {tokens:,} tokens, {self.flops:.2g} FLOPs"


def estimate(config: Config, *, rows: int, tokens_a_text: float, model: ModelFacts, speed: float) -> Estimate:
    """For `rows` rows whose texts (prompt and answer; of a pair, each) have so many tokens on average.

    `speed` is in FLOP/s of all devices. A prompt of rloo and ppo is half a text, its answer max_new_tokens.
    """
    tokens = _tokens(config, rows, min(tokens_a_text, config.max_length))
    policy = model.weights(config, head=1 if isinstance(config, RewardConfig) else model.vocabulary)
    judge = model.weights(config, head=1)
    checkpointing = isinstance(config, TrainingConfig) and config.gradient_checkpointing
    flops = sum(
        count
        * (judge if role in ("reward", "value") else policy).flops(role, gradient_checkpointing=checkpointing)
        for role, count in tokens.items()
    )
    return Estimate(tokens, flops, flops / speed, _memory(config, tokens_a_text, model))


def _tokens(config: Config, rows: int, length: float) -> dict[str, int]:
    if isinstance(config, RolloutConfig):
        answers = float(config.steps(rows) * config.answers_a_step())
        if isinstance(config, RlooConfig):
            answers /= config.iterations  # its steps count the passes over the same answers
        each = answers * (min(length / 2, config.max_length - config.max_new_tokens) + config.max_new_tokens)
        passes = config.iterations if isinstance(config, RlooConfig | PpoConfig) else 1
        found = {"train": passes * each, "reference": each, "reward": each}
        if isinstance(config, RlooConfig):
            found["generation"] = 2 * each  # to make them, and to see how likely they were
        else:
            found |= {"generation": each, "value": passes * each, "reward": 2 * each}
        return {role: round(count) for role, count in found.items()}
    if not isinstance(config, TrainingConfig):
        return {"heldout": round(rows * length)}
    texts = 2 if isinstance(config, DpoConfig | RewardConfig) else 1
    read = config.steps(rows) * config.batch_size * config.gradient_accumulation
    seen = min(rows * config.epochs, read) * texts * length
    found = {"train": seen}
    if isinstance(config, DpoConfig):
        found["reference"] = rows * texts * length if config.precompute_reference else seen
    elif isinstance(config, KtoConfig):
        found["reference"] = 3 * seen
    return {role: round(count) for role, count in found.items()}


def _memory(config: Config, tokens_a_text: float, model: ModelFacts) -> int:
    """Bytes at the peak, which is the backward pass where something is trained."""
    size = 2 if config.precision == "bf16" else 4
    layer = sum(one * other for one, other in model.shapes().values())
    base = layer * model.layers + model.hidden * model.vocabulary
    held = 3 if isinstance(config, PpoConfig) else 2 if isinstance(config, RolloutConfig) else 1
    total = float(PROCESS_BYTES + held * base * size)
    length = min(tokens_a_text, config.max_length)
    if isinstance(config, RolloutConfig):
        length = min(length / 2 + config.max_new_tokens, config.max_length)
    texts = config.batch_size * (2 if isinstance(config, DpoConfig | RewardConfig) else 1)
    batch = texts * length
    if not isinstance(config, RewardConfig):
        total += batch * model.vocabulary * 4 * (4 if isinstance(config, TrainingConfig) else 2)
    kept = 16 * model.hidden + 6 * model.intermediate  # of one layer and one token
    if not isinstance(config, TrainingConfig):
        return round(total + batch * kept * size)
    trained = config.last_layers or model.layers
    models = 2 if isinstance(config, PpoConfig) else 1  # the critic is trained as well
    total += models * 16 * model.weights(config, head=1).adapter
    activations = trained * model.hidden + kept if config.gradient_checkpointing else trained * kept
    return round(total + models * batch * activations * size)
