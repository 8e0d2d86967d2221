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

MIB, GIB = 1 << 20, 1 << 30
USUAL_VERSIONS = 4  # champion, previous, canary, candidate: caches are made small enough for so many
USUAL_TOKENS = 512  # of prompt and answer: no more cache than this is set aside for each running answer
CPU_GIB = 6.0
GPU_SHARE = 0.85  # the rest is for activations and for the kernels themselves
# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


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

    def lacking(self, needed: int, *, used: int) -> int:
        """Bytes to be freed before a version of `needed` bytes fits beside `used` bytes of versions."""
        return used + self.base_bytes + needed - self.limit  # and the checkpoint, of which versions are made


def plan_memory(
    options: Options, config: PretrainedConfig, *, base_bytes: int, dtype: torch.dtype, device: torch.device
) -> MemoryPlan:
    """The plan for a model of `base_bytes`. Raises OutOfMemory when not even one long answer would fit."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * config.num_hidden_layers * heads * width
    limit = memory_limit(options, device)
    max_model_len = min(options.max_model_len, config.max_position_embeddings)
    # A large model on a small machine: fewer versions beside each other, down to the base and one more.
    for versions in range(USUAL_VERSIONS, 1, -1):
        left = limit - (versions + 1) * base_bytes  # one more for the checkpoint
        affordable = left // versions // (numbers * dtype.itemsize)
        if affordable >= max_model_len:
            break
    else:
        raise OutOfMemory(
            f"{limit / GIB:.1f} GiB are too little: beside 3 times {base_bytes / GIB:.1f} GiB of weights, "
            f"{max_model_len} tokens do not fit for each version: raise --memory-gb or lower --max-model-len"
        )
    return MemoryPlan(
        limit=limit,
        base_bytes=base_bytes,
        max_model_len=max_model_len,
        cache_tokens=min(affordable, max(options.max_running * USUAL_TOKENS, max_model_len)),
        numbers_a_token=numbers,
    )


def memory_limit(options: Options, device: torch.device) -> int:
    """Bytes for all versions: what was said, else what the device allows."""
    if options.memory_gb:
        return int(options.memory_gb * GIB)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE)
    return int(CPU_GIB * GIB)


def give_back() -> None:
    """Return what was freed to the system. To be run in a thread: it takes some milliseconds.

    A model and its manager hold each other, so only a collection frees them; and the C library keeps the
    pages of freed matrices, some hundred megabytes a version, unless it is told to look for them.
    """
    gc.collect()
    _glibc("malloc_trim", 0)


def keep_little() -> None:
    """Tell the C library to return what is freed. To be called before any thread is started.

    By itself it keeps an arena a thread, and learns from each large matrix that is freed to serve the next of
    its size from an arena too, where it stays. Tokens a second are the same with and without.
    """
    _glibc("mallopt", M_ARENA_MAX, 1)
    _glibc("mallopt", M_MMAP_THRESHOLD, 4 * MIB)
    _glibc("mallopt", M_TRIM_THRESHOLD, 8 * MIB)


def _glibc(name: str, *arguments: int) -> None:
    """Call a function that only glibc has: musl and other systems have not."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
