"""Counts the tokens that models read, by role, at the door of each model, whatever the trainer does inside.

TRL's own counts leave out the reference, the generation and the reward model; `total_flos` counts padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from training.recipes.accounting import Compute
from training.recipes.reference import REFERENCE


class Meter:
    """Adds what is read to an account. `flush` brings the account up to date; it is a collective call."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._pending: dict[str, Any] = {}  # role -> tokens so far, on the device: no wait for it each pass
        self._is_heldout = False

    def watch_policy(self, policy: Any, *, idle: str = "reference") -> None:
        """A PEFT model: with gradients it trains; as it began it is the reference; else it is `idle`."""
        inner = policy.get_base_model()
        layer = next(module for module in inner.modules() if isinstance(module, BaseTunerLayer))

        def role() -> str:
            if layer.disable_adapters or REFERENCE in layer.active_adapters:
                return "reference"
            return "train" if torch.is_grad_enabled() else idle

        self._watch(inner, role)

    def watch_model(self, model: Any, role: str, *, idle: str | None = None) -> None:
        """A model that plays one role, or another one while no gradients are taken."""
        self._watch(model, lambda: role if idle is None or torch.is_grad_enabled() else idle)

    @contextmanager
    def heldout(self) -> Iterator[None]:
        """What is read in here is read to judge the result."""
        self._is_heldout = True
        try:
            yield
        finally:
            self._is_heldout = False

    def flush(self, *, together: bool = True) -> None:
        """Add what was counted since to the account, of all processes `together` or of this one alone."""
        roles = sorted({*self._compute.tokens, *self._pending})
        counted = torch.tensor([float(self._pending.get(role, 0)) for role in roles], dtype=torch.float64)
        self._pending.clear()
        if together and torch.distributed.is_available() and torch.distributed.is_initialized():
            if torch.distributed.get_backend() != "gloo":
                counted = counted.cuda()
            torch.distributed.all_reduce(counted)
        for role, count in zip(roles, counted.tolist(), strict=True):
            self._compute.tokens[role] = self._compute.tokens.get(role, 0) + int(count)

    def _watch(self, model: Any, role: Any) -> None:
        def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]  # (B, T)
            mask = kwargs.get("attention_mask")
            # While generating, T is 1 and the mask spans all that is cached; its end is what is new. Answers
            # that have ended are fed until the longest one has, and counted until then.
            real = mask[:, -ids.shape[1] :].sum() if mask is not None and mask.ndim == 2 else ids.numel()
            key = "heldout" if self._is_heldout else role()
            self._pending[key] = self._pending.get(key, 0) + real

        model.register_forward_pre_hook(count, with_kwargs=True)
