"""How the memory is divided: the weights of the versions, and an equal cache of keys and values for each."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from inference.engine.errors import OutOfMemory
from inference.engine.options import Options

GIB = 1 << 30
PLANNED_VERSIONS = 4  # champion, previous, canary, candidate
USUAL_TOKENS = 512  # of prompt and answer: no more cache than this is set aside for each running answer


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a version may use, and what all of them may."""

    limit: int  # bytes
    base_bytes: int  # of the weights as served
    max_model_len: int  # tokens
    cache_tokens: int  # a version
    numbers_a_token: int  # keys and values of one token, in all layers

    def cache_bytes(self, dtype: torch.dtype) -> int:
        """Cache of one version."""
        return self.cache_tokens * self.numbers_a_token * dtype.itemsize

    def refuse_another(self, *, used: int, dtype: torch.dtype) -> None:
        """Raise OutOfMemory when one more version would not fit beside `used` bytes of versions."""
        needed = self.base_bytes + self.cache_bytes(dtype)
        spent = used + self.base_bytes  # and the checkpoint, from which versions are made
        if spent + needed > self.limit:
            raise OutOfMemory(
                f"no memory for another version: {spent / GIB:.1f} of {self.limit / GIB:.1f} GiB are in use, "
                f"{needed / GIB:.1f} more are needed: unload one, or raise --memory-gb"
            )


def plan_memory(
    options: Options, config: PretrainedConfig, *, base_bytes: int, dtype: torch.dtype
) -> MemoryPlan:
    """The plan for a model of `base_bytes`. Raises OutOfMemory when not even one long answer would fit."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * heads * width
    limit = int(options.memory_gb * GIB)
    left = limit - (PLANNED_VERSIONS + 1) * base_bytes  # one more for the checkpoint
    affordable = left // PLANNED_VERSIONS // (numbers * dtype.itemsize)
    max_model_len = min(options.max_model_len, config.max_position_embeddings)
    if affordable < max_model_len:
        raise OutOfMemory(
            f"--memory-gb {options.memory_gb} is too little: beside {PLANNED_VERSIONS + 1} times "
            f"{base_bytes / GIB:.1f} GiB of weights, {max_model_len} tokens do not fit for each version"
        )
    return MemoryPlan(
        limit=limit,
        base_bytes=base_bytes,
        max_model_len=max_model_len,
        cache_tokens=min(affordable, max(options.max_running * USUAL_TOKENS, max_model_len)),
        numbers_a_token=numbers,
    )


def give_back() -> None:
    """Return what was freed to the system. To be run in a thread: it takes some milliseconds.

    A model and its manager hold each other, so only a collection frees them; and the C library keeps the
    pages of freed matrices, some hundred megabytes a version, unless it is told to look for them.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if trim is not None:
            trim(0)
