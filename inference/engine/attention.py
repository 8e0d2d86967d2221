"""Attention of a mixed batch on a CPU: every request looks at its own keys only.

The library lays all requests end to end and masks what is not theirs, so that a step costs the square of the
number of requests: with SmolLM2-135M on one core 84 ms at 16 requests and 159 at 32, against 62 and 98 here.
Requests that decode, one token each, are padded into batches of similar length. From four on they are
multiplied as batches of matrices (8 with 96 keys take 85 us a layer, torch's fused attention 123); of fewer
the fused one has less to prepare (one request: 22 us in place of 46). Those that read their prompt are taken
one by one by the fused one, too.
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
FEW = 4  # requests that decode; fewer go to torch's fused attention
# Keys are padded to a multiple of this. Matrices of a new shape cost a millisecond of compiling, and without
# this every step is of a new shape: its requests have grown by a token.
KEYS = 16


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's keys and values in the memory of the library's cache."""

    keys: torch.Tensor  # (G, places, D)
    values: torch.Tensor  # (G, places, D)
    rows: torch.Tensor  # (all from this layer's first key on, D), one piece of memory


@dataclass(frozen=True, slots=True)
class Views:
    """The cache's memory. Head g's key of place p is row `g * stride + p` of a layer, its value `page` on."""

    layers: dict[int, Layer]
    heads: int  # G
    stride: int
    page: int

    def rows_of(self, places: torch.Tensor) -> torch.Tensor:
        """Rows, (2 * G * n,), of the keys and then of the values that stand at `places`, (n,)."""
        keys = (torch.arange(self.heads)[:, None] * self.stride + places).view(-1)
        return torch.cat((keys, keys + self.page))


@dataclass(frozen=True, slots=True)
class Decoding:
    """Requests with one new token each."""

    rows: torch.Tensor  # (B,), their places in the step's tokens
    index: torch.Tensor  # (2 * G * B * L,), rows of the cache; beyond a request's end its last again
    mask: torch.Tensor  # (B, 1, L), added to the scores


@dataclass(frozen=True, slots=True)
class Prefilling:
    """One request that reads q tokens of its prompt after K - q earlier ones."""

    start: int
    end: int
    index: torch.Tensor | None  # (2 * G * K,), rows of the cache; None when nothing was read earlier
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


def current_plan() -> Plan:
    """What this thread was told last."""
    plan: Plan = _step.plan
    return plan


def fits(config: PretrainedConfig, device: torch.device) -> bool:
    """Whether this attention is for the model: on a CPU, and every layer looks at everything."""
    return device.type == "cpu" and looks_at_everything(config)


def looks_at_everything(config: PretrainedConfig) -> bool:
    """Whether no layer of the model has a window."""
    types = set(getattr(config, "layer_types", None) or ["full_attention"])
    return types == {"full_attention"} and getattr(config, "sliding_window", None) is None


def views_of(cache: PagedAttentionCache) -> Views:
    """The cache's memory head by head; places are the library's: pages of all layers in turn, keys first."""
    (allocator,) = cast(Any, cache).cache_allocators.values()  # one: `fits` wants every layer to be alike
    whole = allocator.cache_tensor.view(allocator.num_key_value_heads, -1, allocator.head_dim)
    page = allocator.tokens_per_page
    layers: dict[int, Layer] = {}
    for turn, layer in enumerate(allocator.layer_indices):
        first = 2 * turn * page
        rows = whole.view(-1, allocator.head_dim)[first:]
        layers[layer] = Layer(whole[:, first:], whole[:, first + page :], rows)
    return Views(layers, heads=len(whole), stride=whole.shape[1], page=page)


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
            index = views.rows_of(read_index[first : first + keys])
            plan.prefilling.append(Prefilling(row, row + new, index, mask))
        row += new
        first += keys
    for members in groups.values():
        rows, firsts, counts = torch.tensor(members).T
        longest = int(counts.max())
        if len(members) >= FEW:
            longest += -longest % KEYS
        place = torch.arange(longest)  # (L,)
        keys_of = firsts[:, None] + place.minimum(counts[:, None] - 1)
        index = views.rows_of(read_index[keys_of.flatten()])
        mask = torch.zeros(keys_of.shape, dtype=dtype).masked_fill_(place >= counts[:, None], -torch.inf)
        plan.decoding.append(Decoding(rows, index, mask[:, None, :]))
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
    plan = current_plan()
    layer = plan.views.layers[cast(int, module.layer_idx)]
    write_index = kwargs["write_index"][0]
    layer.keys.index_copy_(1, write_index, key[0])
    layer.values.index_copy_(1, write_index, value[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling

    heads, tokens, width = query.shape[1:]
    answer = query.new_empty(tokens, heads, width)
    for some in plan.decoding:
        is_all = len(some.rows) == tokens  # and in the order of the step: nothing to pick out
        asked = query[0] if is_all else query[0, :, some.rows]
        found = decode(asked, layer.rows, some.index, some.mask, scale, plan.views.heads)
        found = found.reshape(heads, -1, width).transpose(0, 1)
        if is_all:
            return found[None], None
        answer[some.rows] = found
    for one in plan.prefilling:
        span = slice(one.start, one.end)
        if one.index is None:
            seen_keys, seen_values = key[:, :, span], value[:, :, span]
        else:
            shape = (2, 1, plan.views.heads, -1, width)
            seen_keys, seen_values = layer.rows.index_select(0, one.index).view(shape)
        found = scaled_dot_product_attention(
            query[:, :, span], seen_keys, seen_values,
            attn_mask=one.mask, is_causal=one.mask is None, scale=scale, enable_gqa=heads != plan.views.heads,
        )  # fmt: skip
        answer[span] = found[0].transpose(0, 1)
    return answer[None], None


@torch.jit.script
def decode(
    asked: torch.Tensor,
    memory: torch.Tensor,
    index: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    groups: int,
    few: int = FEW,
) -> torch.Tensor:
    """Queries (H, B, D) -> (G, H / G, B, D). Each of the G key heads serves H / G query heads.

    `memory` is a layer's, `index` and `mask` are those of a Decoding.
    """
    width = asked.shape[-1]
    batch, length = mask.shape[0], mask.shape[-1]
    rows = asked.view(groups, -1, batch, width).transpose(1, 2)  # (G, B, H / G, D)
    # From one piece of memory: `index_select` first copies all of a view that is none, a cache of a gigabyte.
    seen_keys, seen_values = memory.index_select(0, index).view(2, groups, batch, length, width).unbind(0)
    if batch < few:
        mask = mask.expand(groups, batch, rows.shape[2], length)
        found = scaled_dot_product_attention(rows, seen_keys, seen_values, attn_mask=mask, scale=scale)
        return found.transpose(1, 2)
    scores = torch.bmm(
        rows.reshape(groups * batch, -1, width),
        seen_keys.view(groups * batch, length, width).transpose(1, 2),
    )
    scores = scores.view(groups, batch, -1, length).float().mul_(scale).add_(mask)
    shares = scores.softmax(-1).to(asked.dtype)
    found = torch.bmm(
        shares.view(groups * batch, -1, length), seen_values.view(groups * batch, length, width)
    )
    return found.view(groups, batch, -1, width).transpose(1, 2)


AttentionInterface.register(NAME, paged_attention)
