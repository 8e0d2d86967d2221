"""A step in which every request gets one token, as one call that needs no Python.

A step of SmolLM2-135M is some 700 operations on one core. Called one by one they cost a lock of the
interpreter each, which the threads that read and write HTTP want at the same time. TorchScript runs the same
operations, in the same order and with the same bits, and gives the lock away until the step is done. It needs
no compiler.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import silu

from inference.engine import attention
from inference.engine.fused import FusedLayer
from inference.engine.packed import PackedLinear


class Stepper:
    """Stands where the library wants a model: a step that only decodes goes through `_decode`."""

    def __init__(self, model: Any) -> None:
        """`model` is a causal model with fused and packed layers, none of which will be replaced."""
        inner = model.model
        layers = list(inner.layers)
        first = layers[0].self_attn
        self._model = model
        self._embed, self._angles, self._norm = inner.embed_tokens, inner.rotary_emb, inner.norm
        self._head = model.lm_head.packed
        self._norms = [
            weight
            for layer in layers
            for weight in (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        ]
        self._matrices = [
            linear.packed
            for layer in layers
            for linear in (
                layer.self_attn.qkv_proj,
                layer.self_attn.o_proj,
                layer.mlp.gate_up_proj,
                layer.mlp.down_proj,
            )
        ]
        self._numbers = [layer.self_attn.layer_idx for layer in layers]
        self._heads, self._scaling, self._epsilon = first.heads, first.scaling, inner.norm.epsilon

    def _supports_logits_to_keep(self) -> bool:
        return True

    def __call__(self, **batch: Any) -> Any:
        """What the model would answer: `logits`, (1, requests, V)."""
        plan = attention.current_plan()
        if plan.prefilling:
            return self._model(**batch)
        hidden = self._embed.forward(batch["input_ids"])
        cosine, sine = self._angles.forward(hidden, batch["position_ids"])
        layers = [plan.views.layers[number] for number in self._numbers]
        logits = _decode(
            hidden,
            cosine,
            sine,
            self._norms,
            self._matrices,
            self._norm.weight,
            self._head,
            [layer.keys for layer in layers],
            [layer.values for layer in layers],
            [layer.rows for layer in layers],
            batch["write_index"][0],
            batch["logits_to_keep"],
            [some.rows for some in plan.decoding],
            [some.index for some in plan.decoding],
            [some.mask for some in plan.decoding],
            self._heads,
            plan.views.heads,
            self._scaling,
            self._epsilon,
        )
        return SimpleNamespace(logits=logits)


def fits(model: Any) -> bool:
    """Whether this is for the model: fused layers, and every matrix packed."""
    is_fused = isinstance(model.model.layers[0], FusedLayer) if hasattr(model, "model") else False
    return is_fused and isinstance(model.lm_head, PackedLinear) and model.lm_head.bias is None


@torch.jit.script
def _linear(rows: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


@torch.jit.script
def _normed(rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return weight * torch.rms_norm(rows.float(), weight.shape, None, epsilon).to(rows.dtype)


@torch.jit.script
def _decode(
    hidden: torch.Tensor,  # (1, T, C)
    cosine: torch.Tensor,
    sine: torch.Tensor,  # (1, T, 1, D)
    norms: list[torch.Tensor],  # two a layer
    matrices: list[torch.Tensor],  # four a layer, packed
    last_norm: torch.Tensor,
    head: torch.Tensor,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    memory: list[torch.Tensor],
    write_index: torch.Tensor,
    wanted: torch.Tensor,
    rows: list[torch.Tensor],
    index: list[torch.Tensor],
    mask: list[torch.Tensor],
    heads: int,
    key_heads: int,
    scaling: float,
    epsilon: float,
) -> torch.Tensor:
    """Logits (1, wanted, V): the layers of `fused.py` and the attention of `attention.py`, in turn."""
    tokens, width = hidden.shape[1], cosine.shape[3]
    for number in range(len(keys)):
        line = _normed(hidden, norms[2 * number], epsilon)
        line = _linear(line, matrices[4 * number]).view(1, tokens, -1, width)
        turning = line[:, :, : heads + key_heads]
        turned = (turning * cosine).addcmul_(turning.roll(width // 2, -1), sine)
        query = turned[0, :, :heads].transpose(0, 1)  # (H, T, D)
        keys[number].index_copy_(1, write_index, turned[0, :, heads:].transpose(0, 1))
        values[number].index_copy_(1, write_index, line[0, :, heads + key_heads :].transpose(0, 1))
        if len(rows) == 1:
            found = attention.decode(query, memory[number], index[0], mask[0], scaling, key_heads)
            attended = found.reshape(heads, tokens, width).transpose(0, 1)
        else:
            attended = query.new_empty([tokens, heads, width])
            for group in range(len(rows)):
                asked = query[:, rows[group]]
                found = attention.decode(asked, memory[number], index[group], mask[group], scaling, key_heads)
                attended[rows[group]] = found.reshape(heads, -1, width).transpose(0, 1)
        hidden = _linear(attended.reshape(1, tokens, -1), matrices[4 * number + 1]).add_(hidden)
        line = _linear(_normed(hidden, norms[2 * number + 1], epsilon), matrices[4 * number + 2])
        gate, up = line.chunk(2, -1)
        hidden = _linear(silu(gate).mul_(up), matrices[4 * number + 3]).add_(hidden)
    return _linear(_normed(hidden, last_norm, epsilon)[:, wanted], head)
