"""Attention of a mixed batch on a GPU, and CUDA graphs of the steps in which everybody gets one token.

The library's own attention masks a matrix of all tokens by all keys, and switches its graphs off with it; its
flash attention is a package of its own, which has to be compiled or fetched from a hub. torch carries the
same kernel (`varlen_attn`): each request looks at its own keys, and nothing needs a mask.
A step of a small model is some hundred kernels of microseconds, so that Python is what it waits for: a graph
replays them at once. A graph knows one shape, so that tokens and keys are padded. A step that reads prompts
is eager: its kernels are long, and its shapes are many.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PretrainedConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from inference.engine.attention import looks_at_everything

NAME = "ratchet_varlen"
TOKENS, KEYS = 16, 4096  # padded to multiples of these, in a step
MAX_WIDTH = 256  # of a head, in the kernel


def fits(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's kernel is for the model: half precision, every layer looks at everything, Ampere on."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    is_new = torch.cuda.get_device_capability(device) >= (8, 0)
    return is_new and looks_at_everything(config) and width <= MAX_WIDTH and width % 8 == 0


def graph_config() -> dict[str, Any]:
    """What the library is told, so that it captures graphs for this attention."""
    return {
        "use_cuda_graph": (True, False),  # of steps in which tokens differ in number; there is no other path
        "use_async_batching": False,
        "q_padding_interval_size": TOKENS,
        "kv_padding_interval_size": KEYS,
    }


def prepare(runner: Any, model: Any, max_running: int, page: int) -> None:
    """Make the library's ModelRunner capture steps of one token each and no others, the first of them now.

    Where the device refuses to capture them, every step is eager.
    """
    most = -(-max_running // TOKENS) * TOKENS
    with torch.no_grad():
        for tokens in range(TOKENS, most + 1, TOKENS):
            runner.run_one_warmup(model, num_q_tokens=tokens, max_kv_read=page)
            if runner.inputs_and_outputs.get_graph() is None:  # the library has logged why
                most = 0
                break
    runner.cache.reset()
    every_form = runner._get_forward_fn

    def form(use_block_table: bool) -> Any:
        function, has_graph = every_form(use_block_table=use_block_table)
        return function, has_graph and runner.inputs_and_outputs.num_q_tokens <= most

    runner._get_forward_fn = form


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: PagedAttentionCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Query (1, H, T, D), key and value (1, G, T, D) of the step's T tokens -> (1, T, H, D)."""
    if cache is None:  # a plain forward pass, such as the probe
        kwargs["is_causal"] = attention_mask is None
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # Into the pages, and all keys out of them, request after request: (1, G, K, D).
    key, value = cache.update(key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs)
    found: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        kwargs["cu_seq_lens_q"],
        kwargs["cu_seq_lens_k"],
        kwargs["max_length_q"],
        kwargs["max_length_k"],
        scale=scaling,
        window_size=(-1, 0),  # causal, the last tokens at the last keys
        enable_gqa=True,
    )
    return found[None], None


AttentionInterface.register(NAME, attention)
