"""The layers of a Llama with fewer and larger multiplications, for a CPU.

Query, key and value are one matrix, gate and up another, and queries and keys are turned together: a step of
SmolLM2-135M has 90 multiplications and 600 small operations less. The mathematics is the same, and the same
attention function is called with the same shapes, so that everything around stays the library's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm, silu
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Serving layer -> the layers of the checkpoint whose rows it holds, in order.
ROWS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
LAYERS = "model.layers."


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether these layers are what the model has: Llama's own, without biases, whose activation is SiLU."""
    config: Any = model.config
    plain = not config.attention_bias and not config.mlp_bias if config.model_type == "llama" else False
    return bool(plain and config.hidden_act == "silu")


def fuse(model: PreTrainedModel) -> None:
    """Put the fused layers in place. Their linear layers are empty: fill those that `sources` names."""
    inner: Any = model.model
    inner.layers = nn.ModuleList(FusedLayer(layer) for layer in inner.layers)
    inner.norm = Norm(inner.norm)
    inner.rotary_emb = Angles(inner.rotary_emb)


def sources(path: str) -> tuple[str, ...]:
    """The checkpoint's layers that make up the serving layer at `path`: itself, where it is not fused."""
    if not path.startswith(LAYERS):
        return (path,)
    number, _, inner = path.removeprefix(LAYERS).partition(".")
    return tuple(f"{LAYERS}{number}.{part}" for part in ROWS.get(inner, (inner,)))


class FusedLayer(nn.Module):
    """Llama's layer. Parts are called past nn.Module's hooks, which nobody sets here: 300 calls a step."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.input_layernorm = Norm(plain.input_layernorm)
        self.self_attn = FusedAttention(plain.self_attn)
        self.post_attention_layernorm = Norm(plain.post_attention_layernorm)
        self.mlp = FusedMLP()

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        # What a linear layer answers is nobody else's: the sum may stand there.
        attended, _ = self.self_attn.forward(self.input_layernorm.forward(hidden_states), **kwargs)
        hidden_states = attended.add_(hidden_states)
        answer: torch.Tensor = self.mlp.forward(self.post_attention_layernorm.forward(hidden_states))
        return answer.add_(hidden_states)


class Norm(nn.Module):
    """The library's norm, with the same bits, in half of the operations."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = plain.weight
        self.epsilon: float = plain.variance_epsilon

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        normed = rms_norm(rows.float(), self.weight.shape, None, self.epsilon)
        return self.weight * normed.to(rows.dtype)


class FusedAttention(nn.Module):
    """Llama's attention; a hole for `qkv_proj` and one for `o_proj`."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        # What attention functions ask of a module.
        self.config = plain.config
        self.layer_idx: int = plain.layer_idx
        self.num_key_value_groups: int = plain.num_key_value_groups
        self.is_causal = True
        self.head_dim: int = plain.head_dim
        self.scaling: float = plain.scaling
        self.heads: int = plain.config.num_attention_heads
        self.key_heads: int = plain.config.num_key_value_heads
        self.qkv_proj: nn.Module = Hole()
        self.o_proj: nn.Module = Hole()

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """(B, T, C) -> (B, T, C)."""
        batch, length, _ = hidden_states.shape
        rows = self.qkv_proj.forward(hidden_states).view(
            batch, length, -1, self.head_dim
        )  # (B, T, H + 2 G, D)
        cosine, sine = position_embeddings
        turning = rows[:, :, : self.heads + self.key_heads]
        turned = (turning * cosine).addcmul_(turning.roll(self.head_dim // 2, -1), sine)
        query = turned[:, :, : self.heads].transpose(1, 2)
        key = turned[:, :, self.heads :].transpose(1, 2)
        value = rows[:, :, self.heads + self.key_heads :].transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        found, _ = attend(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.o_proj.forward(found.reshape(batch, length, -1)), None


class FusedMLP(nn.Module):
    """Llama's gated network; a hole for `gate_up_proj` and one for `down_proj`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj: nn.Module = Hole()
        self.down_proj: nn.Module = Hole()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        gate, up = self.gate_up_proj.forward(rows).chunk(2, -1)
        answer: torch.Tensor = self.down_proj.forward(silu(gate).mul_(up))
        return answer


class Angles(nn.Module):
    """The library's rotary angles, once a step in the form that FusedAttention multiplies with."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine, (B, T, 1, D); the first half of the sine is negative, as a half turn needs it."""
        cosine, sine = self.plain(*args, **kwargs)
        first, second = sine.chunk(2, -1)
        return cosine[:, :, None], torch.cat((-first, second), -1)[:, :, None]


class Hole(nn.Module):
    """Where a linear layer is to be put."""
