"""Attention of a mixed batch on a CPU: every request looks at its own keys only.

The library lays all requests end to end and masks what is not theirs, so that a step costs the square of the
number of requests: with SmolLM2-135M on one core 84 ms at 16 requests and 159 at 32, against 62 and 98 here.
Requests that decode, one token each, are padded into batches of similar length and multiplied as batches of
matrices: torch's fused attention takes 200 us a layer for 16 such requests with 96 keys, and this 75. Those
that read their prompt are taken one by one, and there the fused one is good.
The keys stay in the library's paged cache, whose memory is read and written here alone: laid out head
by head, as the matrices are wanted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "ratchet_paged"


# Layer -> its keys and its values, each (G, places, D), in the memory of the library's cache.
Views = dict[int, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Decoding:
    """Requests with one new token each."""

    rows: torch.Tensor  # (B,), their places in the step's tokens
    index: torch.Tensor  # (B * L,), where their keys lie in the cache; beyond the end the last key again
    mask: torch.Tensor  # (B, 1, L), added to the scores


@dataclass(frozen=True, slots=True)
class Prefilling:
    """One request that reads q tokens of its prompt after K - q earlier ones."""

    start: int
    end: int
    index: torch.Tensor | None  # (K,), None when nothing was read earlier
    mask: torch.Tensor | None  # (q, K), true where a token may look; None means causal


@dataclass(frozen=True, slots=True)
class Plan:
    """Who looks where in one step; the same for every layer."""

    decoding: list[Decoding]
    prefilling: list[Prefilling]
    views: Views


_step = threading.local()  # each generation thread has its own step


def set_plan(plan: Plan) -> None:
    """The plan of this thread's next forward pass."""
    _step.plan = plan


def fits(config: PretrainedConfig, device: torch.device) -> bool:
    """Whether this attention is for the model: on a CPU, and every layer looks at everything."""
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = getattr(config, "sliding_window", None) is not None
    return device.type == "cpu" and types == {"full_attention"} and not slides


def views_of(cache: PagedAttentionCache) -> Views:
    """The cache's memory head by head; places are the library's: pages of all layers in turn, keys first."""
    views: Views = {}
    for allocator in cast(Any, cache).cache_allocators.values():
        whole = allocator.cache_tensor.view(allocator.num_key_value_heads, -1, allocator.head_dim)
        for turn, layer in enumerate(allocator.layer_indices):
            first = 2 * turn * allocator.tokens_per_page
            views[layer] = (whole[:, first:], whole[:, first + allocator.tokens_per_page :])
    return views


def make_plan(
    lengths: list[tuple[int, int]], read_index: torch.Tensor, dtype: torch.dtype, views: Views
) -> Plan:
    """The plan for requests with (new tokens, keys with the new ones), in the order of the step.

    `read_index` is (sum of keys,), or empty when no request has earlier keys.
    """
    plan = Plan([], [], views)
    groups: dict[int, list[tuple[int, int, int]]] = {}  # size class -> (row, first key, keys)
    row = first = 0
    for new, keys in lengths:
        if new == 1 and keys > 1:
            groups.setdefault(max(64, keys).bit_length(), []).append((row, first, keys))
        elif new == keys:
            plan.prefilling.append(Prefilling(row, row + new, None, None))
        else:
            mask = torch.ones(new, keys, dtype=torch.bool).tril(keys - new)
            plan.prefilling.append(Prefilling(row, row + new, read_index[first : first + keys], mask))
        row += new
        first += keys
    for members in groups.values():
        rows, firsts, counts = torch.tensor(members).T
        place = torch.arange(int(counts.max()))  # (L,)
        index = firsts[:, None] + place.minimum(counts[:, None] - 1)
        mask = torch.zeros(index.shape, dtype=dtype).masked_fill_(place >= counts[:, None], -torch.inf)
        plan.decoding.append(Decoding(rows, read_index[index.flatten()], mask[:, None, :]))
    return plan


def paged_attention(
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
    plan: Plan = _step.plan
    keys, values = plan.views[cast(int, module.layer_idx)]  # each (G, places, D)
    write_index = kwargs["write_index"][0]
    keys.index_copy_(1, write_index, key[0])
    values.index_copy_(1, write_index, value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling

    heads, tokens, width = query.shape[1:]
    answer = query.new_empty(tokens, heads, width)
    for some in plan.decoding:
        found = _decode(query[0, :, some.rows], keys, values, some, scale)
        answer[some.rows] = found.reshape(heads, -1, width).transpose(0, 1)
    for one in plan.prefilling:
        span = slice(one.start, one.end)
        if one.index is None:
            seen_keys, seen_values = key[:, :, span], value[:, :, span]
        else:
            seen_keys = _take(keys, one.index)[None]
            seen_values = _take(values, one.index)[None]
        found = scaled_dot_product_attention(
            query[:, :, span], seen_keys, seen_values,
            attn_mask=one.mask, is_causal=one.mask is None, scale=scale, enable_gqa=heads != len(keys),
        )  # fmt: skip
        answer[span] = found[0].transpose(0, 1)
    return answer[None], None


def _decode(
    asked: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, some: Decoding, scale: float
) -> torch.Tensor:
    """Queries (H, B, D) -> (G, H / G, B, D). Each key head serves H / G query heads."""
    groups, width = keys.shape[0], keys.shape[-1]
    batch, length = some.mask.shape[0], some.mask.shape[-1]
    shape = (groups * batch, length, width)
    rows = asked.view(groups, -1, batch, width).transpose(1, 2).reshape(groups * batch, -1, width)
    seen_keys = _take(keys, some.index).view(shape)
    seen_values = _take(values, some.index).view(shape)
    scores = torch.bmm(rows, seen_keys.transpose(1, 2)).view(groups, batch, -1, length)
    shares = scores.float().mul_(scale).add_(some.mask).softmax(-1).to(rows.dtype)
    found = torch.bmm(shares.view(groups * batch, -1, length), seen_values)
    return found.view(groups, batch, -1, width).transpose(1, 2)


def _take(view: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(G, places, D) at the places of `index` (n,) -> (G, n, D).

    Head by head, whose memory lies together: `index_select` first copies all of a view that does not, which
    with a cache of a gigabyte takes 40 ms a call.
    """
    taken = view.new_empty(len(view), len(index), view.shape[-1])
    for head, into in zip(view, taken, strict=True):
        torch.index_select(head, 0, index, out=into)
    return taken


AttentionInterface.register(NAME, paged_attention)
