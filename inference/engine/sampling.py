"""One sampler for every request of a batch, each with its own settings.

It stands where the library keeps its list of logits processors, because those know no seed, take no
temperature of 0, and sort the whole vocabulary. It looks at the 64 likeliest tokens of a row, applies
temperature, then top-k, then top-p, and chooses with Gumbel noise: argmax(log p + g) is a draw from p.
The noise is a hash of seed, position and token, so a seed repeats itself whatever else is in the batch,
as far as the logits do: in bf16 they depend on the size of the batch.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from inference.engine.protocol import MAX_TOP_K


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is drawn. Temperature 0 is greedy; `key` is 64 bits of noise."""

    temperature: float
    top_p: float
    top_k: int
    key: int

    @classmethod
    def of(
        cls,
        *,
        temperature: float | None,
        top_p: float | None,
        top_k: int | None,
        seed: int | None,
        choice: int,
    ) -> Sampling:
        """Defaults of the protocol, and a key that differs by seed and by choice."""
        said = os.urandom(16) if seed is None else str(seed).encode()
        key = hashlib.blake2b(said + b"/%d" % choice, digest_size=8).digest()
        return cls(
            temperature=1.0 if temperature is None else temperature,
            top_p=1.0 if top_p is None else top_p,
            top_k=top_k if top_k and top_k > 0 else MAX_TOP_K,
            key=int.from_bytes(key, "little", signed=True),
        )

    def packed(self) -> tuple[int, int, int, int, int]:
        """The settings as five 32-bit integers, floats by their bits: the library carries int32 rows."""
        return struct.unpack("<5i", struct.pack("<ffiq", self.temperature, self.top_p, self.top_k, self.key))


GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=1, key=0)
COLD = 1e-5  # a temperature below this is greedy: divided by it, logits are no numbers any more


class Sampler(ContinuousBatchingLogitsProcessorList):
    """The library's list of processors, with one rule in it. Every row's choice gets an infinite score."""

    ROWS = 6  # temperature, top_p, top_k, two halves of the key, position

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required = self.ROWS
        self.do_processing = True

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Nothing to check: only `Lane` adds requests, and it passes one Sampling."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Rows without a request: greedy. `int32_tensor` is (ROWS, 1)."""
        int32_tensor.copy_(torch.tensor([*GREEDY.packed(), 0], dtype=torch.int32)[:, None])

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Write the settings of the requests that get a token into `arg_storage`, (ROWS, requests)."""
        columns = [
            # The library's own requests, which warm up the graphs of a GPU, bring no settings.
            (
                *future.state.logit_processor_kwargs.get("sampling", GREEDY).packed(),
                future.state.position_offset,
            )
            for future in requests_in_batch
            if future.has_new_token
        ]
        if columns:
            values = torch.tensor(columns, dtype=torch.int32).T  # (ROWS, R)
            arg_storage[: self.ROWS, : len(columns)] = values.to(arg_storage.device)
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Mark the chosen token of each row of `scores`, (R, V), in place; the library's argmax finds it."""
        arguments = logits_processor_args[: self.ROWS, : scores.size(0)]
        # Looked at on a CPU alone: a GPU would have to wait for it, and its graphs know no branches.
        if scores.device.type == "cpu" and bool((arguments[0].view(torch.float32) < COLD).all()):
            return scores
        chosen = choose(scores, arguments)
        return scores.scatter_(1, chosen[:, None], float("inf"))


def choose(scores: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
    """Token ids, (R,), drawn from fp32 logits (R, V) by the packed settings (ROWS, R)."""
    settings = arguments.contiguous()
    temperature = settings[0].view(torch.float32)[:, None]  # (R, 1)
    top_p = settings[1].view(torch.float32)[:, None]
    top_k = settings[2][:, None]
    top, tokens = scores.topk(min(MAX_TOP_K, scores.size(1)), dim=1)  # (R, 64), likeliest first
    # Of equals, which bf16 often makes, the first of the vocabulary, as argmax says where nothing is drawn.
    first = tokens.masked_fill(top < top[:, :1], scores.size(1)).amin(dim=1, keepdim=True)

    greedy = temperature < COLD
    top = top / torch.where(greedy, 1.0, temperature)
    rank = torch.arange(top.size(1), device=top.device)  # (64,)
    top = top.masked_fill(rank >= top_k, -torch.inf)
    probability = top.softmax(dim=1)
    # A token stays while the likelier ones together have not reached top_p: so the first always stays.
    before = probability.cumsum(dim=1) - probability
    top = top.masked_fill((before >= top_p) & (rank > 0), -torch.inf)

    noise = _gumbel(settings[3:6], tokens)
    drawn = tokens.gather(1, (top + noise).argmax(dim=1, keepdim=True))
    return torch.where(greedy, first, drawn).squeeze(1)


def _gumbel(key_and_position: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Gumbel noise (R, 64), a hash of the key's halves and position (3, R) and the token ids (R, 64)."""
    low, high, position = key_and_position.to(torch.int64)[:, :, None]  # each (R, 1)
    bits = (high << 32) ^ (low & 0xFFFFFFFF)
    bits = _mix(bits ^ (position * _odd(0x9E3779B97F4A7C15)))
    bits = _mix(bits ^ (tokens * _odd(0xD1B54A32D192ED03)))
    uniform = ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53  # [0, 1)
    return -torch.log(-torch.log(uniform.clamp_(2.0**-53, 1 - 2.0**-53))).to(torch.float32)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The finisher of splitmix64 on int64, which wraps as uint64 does; shifts are made logical by a mask."""
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _odd(0xBF58476D1CE4E5B9)
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _odd(0x94D049BB133111EB)
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


def _odd(constant: int) -> int:
    """A 64-bit constant as the signed integer with the same bits."""
    return constant - (1 << 64) if constant >= 1 << 63 else constant
