"""Weights: the base model, and the versions that are the base plus one adapter, merged.

An adapter is merged into its own copy because an unmerged one costs most of a CPU's speed. A copy holds only
the matrices that the adapter changes; everything else is shared with the base, which nobody writes to.
Merging into bf16 can destroy a small update: the merge is done in fp32, its error is measured on what would
serve, and a version that loses too much is served in fp32 instead.
"""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from inference.engine.adapter import Adapter, Update
from inference.engine.errors import InvalidRequest
from inference.engine.fused import Hole, can_fuse, fuse, sources
from inference.engine.packed import PackedLinear, can_pack

MAX_MERGE_ERROR = 0.5  # of the update's norm; above it the version is served in fp32
PROBE = 16  # tokens of the fixed prompt that every version is asked before it serves


@dataclass(frozen=True, slots=True)
class Merged:
    """A model that can serve. `error` is relative to the update's norm, None for the base itself."""

    model: PreTrainedModel
    dtype: torch.dtype
    own_bytes: int
    error: float | None
    shift: float | None  # largest change of a logit on the probe, None for the base

    @property
    def is_base(self) -> bool:
        return self.error is None


def serving_device(wish: str) -> torch.device:
    """The GPU where there is one, unless another is wished for."""
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wish)


def serving_dtype(wish: str, device: torch.device) -> torch.dtype:
    """The fast one: bf16 on a GPU, and on a CPU that can multiply it; otherwise fp32."""
    if wish != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wish]
    if device.type == "cuda":
        return torch.bfloat16
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.exists() else set()
    # The names that x86 and ARM give to it. AVX-512 alone is not enough: there bf16 is slower than fp32.
    return torch.bfloat16 if words & {"avx512_bf16", "amx_bf16", "bf16"} else torch.float32


class Weights:
    """The base as its checkpoint has it, and the models made from it."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        """Reads safetensors only; no code of the folder is run."""
        self.dtype = dtype
        self._device = device
        self._master: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, trust_remote_code=False, local_files_only=True,
            attn_implementation="sdpa",
        )  # fmt: skip
        nn.Module.to(self._master, device)
        self._master.eval().requires_grad_(requires_grad=False)
        self.config = self._master.config
        self.base = self._serving_copy(dtype, {})
        self._base_logits = probe(self.base.model)

    def size_of(self, adapter: Adapter) -> int:
        """Bytes of the copy that the adapter needs. Raises InvalidRequest when it does not fit the base."""
        touched = {update.name for update in self._updates(adapter)}
        layers = [sources(path) for path in _linear_paths(self.base.model)]
        own = {name for names in layers if not touched.isdisjoint(names) for name in names}
        weights: list[Any] = [self._master.get_submodule(name) for name in own]
        return sum(layer.weight.numel() for layer in weights) * self.dtype.itemsize

    def merge(self, adapter: Adapter, turn: AbstractContextManager[Any]) -> Merged:
        """The base plus the adapter. Raises InvalidRequest when it cannot be served.

        The heavy arithmetic takes turns with the generation threads.
        """
        merged: dict[str, torch.Tensor] = {}
        lost = changed = 0.0
        for update in self._updates(adapter):
            with turn:
                delta, weight = update.delta(), update.weight
                served = weight.to(self.dtype).float()
                merged[update.name] = weight.float() + delta
                lost += float((merged[update.name].to(self.dtype).float() - served - delta).square().sum())
                changed += float(delta.square().sum())
        if not changed > 0 or not math.isfinite(changed):
            raise InvalidRequest(
                "the adapter changes nothing, or its numbers are not finite", code="bad_adapter"
            )
        error = math.sqrt(lost / changed)
        dtype = self.dtype if error <= MAX_MERGE_ERROR else torch.float32
        with turn:
            made = self._serving_copy(dtype, merged)
        with turn:
            logits = probe(made.model)
        if not bool(torch.isfinite(logits).all()):
            raise InvalidRequest(
                "the merged model answers with numbers that are not finite", code="bad_adapter"
            )
        shift = float((logits - self._base_logits).abs().max())
        # What is left is the noise of the casts to fp32, which no update causes.
        kept = 0.0 if dtype == torch.float32 and self.dtype != dtype else error
        return Merged(model=made.model, dtype=dtype, own_bytes=made.own_bytes, error=kept, shift=shift)

    def _updates(self, adapter: Adapter) -> list[Update]:
        return adapter.updates(self._master, is_tied=self.config.tie_word_embeddings)

    def _serving_copy(self, dtype: torch.dtype, replaced: dict[str, torch.Tensor]) -> Merged:
        """The base in `dtype` with the weights of `replaced`, sharing what is equal and not copying it."""
        like_base = bool(replaced) and dtype == self.dtype
        source = self.base.model if like_base else self._master
        shared: list[Any] = []
        if like_base:
            shared += [layer for layer in source.modules() if isinstance(layer, nn.Linear | PackedLinear)]
        if source.dtype == dtype:
            shared += [*source.parameters(), *source.buffers()]
        model: PreTrainedModel = copy.deepcopy(source, {id(thing): thing for thing in shared})
        nn.Module.to(model, dtype)
        if not like_base and can_pack(self._device, dtype) and can_fuse(model):
            fuse(model)
        own = 0
        for path in _linear_paths(model):
            names = sources(path)
            if like_base and replaced.keys().isdisjoint(names):
                continue
            plain: list[Any] = [self._master.get_submodule(name) for name in names]
            parts = [replaced.get(name, one.weight) for name, one in zip(names, plain, strict=True)]
            weight = parts[0] if len(parts) == 1 else torch.cat([part.to(dtype) for part in parts])
            model.set_submodule(path, self._linear(weight.detach(), plain[0].bias, dtype))
            own += weight.numel()
        if not like_base:
            own = sum(parameter.numel() for parameter in self._master.parameters())
        return Merged(model=model, dtype=dtype, own_bytes=own * dtype.itemsize, error=None, shift=None)

    def _linear(self, weight: torch.Tensor, bias: Any, dtype: torch.dtype) -> nn.Module:
        """A layer for serving with this weight, (out, in)."""
        if can_pack(self._device, dtype):
            return PackedLinear(weight.to(dtype), bias)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        layer.bias = bias
        return layer


def _linear_paths(model: PreTrainedModel) -> list[str]:
    """Where linear layers are, or are to be put."""
    kinds = (nn.Linear, PackedLinear, Hole)
    return [path for path, layer in model.named_modules() if isinstance(layer, kinds)]


@torch.inference_mode()
def probe(model: PreTrainedModel) -> torch.Tensor:
    """Logits (PROBE, V) in fp32 for a fixed prompt of token ids, through the plain forward pass."""
    vocabulary = model.config.vocab_size
    ids = torch.tensor([[(7 + 13 * place) % vocabulary for place in range(PROBE)]], device=model.device)
    return model(input_ids=ids, use_cache=False).logits[0].float()
