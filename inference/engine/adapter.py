"""Reading a LoRA adapter: its settings, its tensors, and the update that it makes to each layer.

Only what can be merged exactly is taken: anything else changes the mathematics, and is refused, not ignored.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from inference.artifact import ArtifactError
from inference.engine.errors import InvalidRequest

PREFIX = "base_model.model."
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AdapterConfig(BaseModel):
    """The part of adapter_config.json that has a say in the merge; the rest concerns training."""

    model_config = ConfigDict(strict=True, extra="ignore")

    peft_type: Literal["LORA"]
    lora_alpha: Positive
    alpha_pattern: dict[str, Positive] | None = None
    use_rslora: bool | None = None
    # With any other value the adapter is more than B A.
    use_dora: Literal[False] | None = None
    bias: Literal["none"] | None = None
    lora_bias: Literal[False] | None = None
    fan_in_fan_out: Literal[False] | None = None
    modules_to_save: Annotated[list[str], Field(max_length=0)] | None = None
    layer_replication: Annotated[list[Any], Field(max_length=0)] | None = None
    trainable_token_indices: None = None
    auto_map: None = None  # names code in the folder; nothing here would run it

    def scale(self, name: str, *, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) with rsLoRA; a pattern names modules by the end of their path."""
        alpha = self.lora_alpha
        for pattern, value in (self.alpha_pattern or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, slots=True)
class Update:
    """What an adapter adds to one layer: scale * up @ down."""

    name: str  # of the layer
    weight: torch.Tensor  # of the layer in the base, (out, in)
    down: torch.Tensor  # (r, in)
    up: torch.Tensor  # (out, r)
    scale: float

    def delta(self) -> torch.Tensor:
        """(out, in) in fp32."""
        device = self.weight.device
        product = self.up.to(device, torch.float32) @ self.down.to(device, torch.float32)
        return product * self.scale


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter in memory."""

    config: AdapterConfig
    tensors: dict[str, torch.Tensor]

    def updates(self, base: nn.Module, *, is_tied: bool) -> list[Update]:
        """One for each layer that it changes; every tensor of the adapter is used once.

        `is_tied` says that the output layer is the embedding. Raises InvalidRequest on what does not fit.
        """
        found: list[Update] = []
        left = set(self.tensors)
        modules = dict(base.named_modules())
        for key in sorted(self.tensors):
            if not key.startswith(PREFIX) or not key.endswith(".lora_A.weight"):
                continue
            other = key.replace(".lora_A.", ".lora_B.")
            name = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            layer = modules.get(name)
            if not isinstance(layer, nn.Linear) or other not in left:
                raise _refusal(f"the base model has no linear layer for {key}")
            if name == "lm_head" and is_tied:
                raise _refusal("the output layer is tied to the embedding: train without adapting lm_head")
            weight = layer.weight
            down, up = self.tensors[key], self.tensors[other]
            shapes = (up.shape, down.shape)
            if shapes != ((weight.shape[0], down.shape[0]), (down.shape[0], weight.shape[1])):
                raise _refusal(f"{key} does not fit a layer of {tuple(weight.shape)}")
            left -= {key, other}
            scale = self.config.scale(name, rank=down.shape[0])
            found.append(Update(name=name, weight=weight, down=down, up=up, scale=scale))
        if left:
            raise _refusal(f"the adapter holds {min(left)}, which cannot be merged")
        return found


def read_adapter(folder: Path, manifest: dict[str, Any]) -> Adapter:
    """The adapter in a folder that was verified against `manifest`.

    Raises ArtifactError when a file changed since, InvalidRequest when it is no adapter that we can merge.
    """
    settings = _read(folder, "adapter_config.json", manifest)
    weights = _read(folder, "adapter_model.safetensors", manifest)
    try:
        config = AdapterConfig.model_validate_json(settings)
        for pattern in config.alpha_pattern or {}:
            re.compile(pattern)
        tensors = safetensors.torch.load(weights)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise _refusal(
            f"adapter_config.json: {name}: {first['msg']}, got {str(first['input'])[:40]}"
        ) from error
    except (re.error, safetensors.SafetensorError) as error:
        raise _refusal(f"{folder.name} cannot be read: {error}") from error
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise _refusal(f"the numbers of {key} are not finite")
    return Adapter(config, tensors)


def _read(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """The bytes that were verified, and no others: hashed again as they are read."""
    entry = manifest["files"].get(name)
    if entry is None:
        raise _refusal(f"{folder.name} holds no {name}")
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ArtifactError(f"{folder.name}/{name} changed while it was read")
    return data


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="bad_adapter", param="lora_path")
