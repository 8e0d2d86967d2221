"""Weights: the base model, and the versions that are the base plus one adapter, merged.

An adapter is merged into its own copy because an unmerged one costs most of a CPU's speed. A copy holds only
the matrices that the adapter changes; everything else is shared with the base, which nobody writes to.
Merging into bf16 can destroy a small update: the merge is done in fp32, its error is measured on what would
serve, and a version that loses too much is served in fp32 instead.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from inference.artifact import ArtifactError
from inference.engine.errors import InvalidRequest
from inference.engine.packed import PackedLinear, can_pack

MAX_MERGE_ERROR = 0.5  # of the update's norm; above it the version is served in fp32
PREFIX = "base_model.model."
PROBE = 16  # tokens of the fixed prompt that every version is asked before it serves
# What an adapter's config may ask for. Anything else changes the mathematics, and is refused, not ignored.
PLAIN = {
    "bias": ("none",), "fan_in_fan_out": (False,), "use_dora": (False,), "modules_to_save": (None, []),
    "layer_replication": (None,), "lora_bias": (False,), "trainable_token_indices": (None,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Merged:
    """A model that can serve. `error` is relative to the update's norm, None for the base itself."""

    model: PreTrainedModel
    dtype: torch.dtype
    own_bytes: int
    error: float | None
    shift: float | None  # largest change of a logit on the probe, None for the base


def serving_dtype(wish: str, device: torch.device) -> torch.dtype:
    """The fast one: bf16 on a GPU, and on a CPU that can multiply it; otherwise fp32."""
    if wish != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[wish]
    if device.type == "cuda":
        return torch.bfloat16
    flags = Path("/proc/cpuinfo")
    words = set(flags.read_text().split()) if flags.exists() else set()
    return torch.bfloat16 if words & {"avx512_bf16", "amx_bf16"} else torch.float32


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

    def merge(self, adapter: Path, manifest: dict[str, Any], turn: AbstractContextManager[Any]) -> Merged:
        """The base plus the adapter in the folder, which `manifest` describes.

        Raises ArtifactError when the bytes read are not those of the manifest, InvalidRequest when the
        adapter cannot be served. The heavy arithmetic takes turns with the generation threads.
        """
        config = json.loads(_read(adapter, "adapter_config.json", manifest))
        tensors = safetensors.torch.load(_read(adapter, "adapter_model.safetensors", manifest))
        _refuse_unusual(config)
        merged: dict[str, torch.Tensor] = {}
        lost = changed = 0.0
        for name, weight, delta in self._deltas(config, tensors):
            with turn:
                served = weight.to(self.dtype).float()
                merged[name] = weight.float() + delta
                lost += float((merged[name].to(self.dtype).float() - served - delta).square().sum())
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

    def _deltas(
        self, config: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """(module, its weight, the update in fp32); raises InvalidRequest on a tensor that does not fit."""
        left = set(tensors)
        for key in sorted(tensors):
            if not key.endswith(".lora_A.weight"):
                continue
            other = key.replace(".lora_A.", ".lora_B.")
            name = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            try:
                layer = self._master.get_submodule(name)
            except AttributeError:
                layer = None
            if not isinstance(layer, nn.Linear) or other not in tensors or not key.startswith(PREFIX):
                raise InvalidRequest(f"the base model has no linear layer for {key}", code="bad_adapter")
            if name == "lm_head" and self.config.tie_word_embeddings:
                raise InvalidRequest(
                    "the output layer is tied to the embedding: do not adapt it", code="bad_adapter"
                )
            down, up = tensors[key].float().to(self._device), tensors[other].float().to(self._device)
            if (up.shape[0], down.shape[1]) != tuple(layer.weight.shape) or up.shape[1] != down.shape[0]:
                raise InvalidRequest(
                    f"{key} does not fit a layer of {tuple(layer.weight.shape)}", code="bad_adapter"
                )
            left -= {key, other}
            yield name, layer.weight, (up @ down) * _scale(config, name, rank=down.shape[0])
        if left:
            raise InvalidRequest(f"the adapter holds {min(left)}, which cannot be merged", code="bad_adapter")

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
        for name, layer in list(model.named_modules()):
            if name in replaced:
                model.set_submodule(name, self._linear(replaced[name], layer.bias, dtype))
            elif isinstance(layer, nn.Linear) and not like_base:
                model.set_submodule(name, self._linear(layer.weight.detach(), layer.bias, dtype))
        own = replaced.values() if like_base else self._master.parameters()
        own_bytes = sum(tensor.numel() for tensor in own) * dtype.itemsize
        return Merged(model=model, dtype=dtype, own_bytes=own_bytes, error=None, shift=None)

    def _linear(self, weight: torch.Tensor, bias: Any, dtype: torch.dtype) -> nn.Module:
        """A layer for serving with this weight, (out, in)."""
        if can_pack(self._device, dtype):
            return PackedLinear(weight.to(dtype), bias)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        layer.bias = bias
        return layer


@torch.inference_mode()
def probe(model: PreTrainedModel) -> torch.Tensor:
    """Logits (PROBE, V) in fp32 for a fixed prompt of token ids, through the plain forward pass."""
    vocabulary = model.config.vocab_size
    ids = torch.tensor([[(7 + 13 * place) % vocabulary for place in range(PROBE)]], device=model.device)
    return model(input_ids=ids, use_cache=False).logits[0].float()


def _read(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """The bytes that were verified, and no others: hashed again as they are read."""
    entry = manifest["files"].get(name)
    if entry is None:
        raise InvalidRequest(f"{folder.name} holds no {name}", code="bad_adapter")
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ArtifactError(f"{folder.name}/{name} changed while it was read")
    return data


def _refuse_unusual(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InvalidRequest(
            f"only LORA adapters are served, not {config.get('peft_type')}", code="bad_adapter"
        )
    for key, allowed in PLAIN.items():
        if key in config and config[key] not in allowed:
            raise InvalidRequest(
                f"an adapter with {key}={config[key]!r} cannot be served", code="bad_adapter"
            )


def _scale(config: dict[str, Any], name: str, *, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) with rsLoRA; patterns name modules by the end of their path."""
    alpha = float(config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
