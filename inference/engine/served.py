"""A version that can be asked for: its weights, its lane, and what is said about it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from inference.engine.lane import Lane
from inference.engine.weights import Merged


@dataclass(eq=False, kw_only=True)
class ServedVersion:
    """A name under which answers are made."""

    name: str
    digest: str
    merged: Merged
    lane: Lane
    root: str  # the folder that it was read from
    parent: str | None  # name of the base, None for the base itself
    bytes: int  # that go back when it is unloaded
    max_model_len: int
    is_pinned: bool = False  # never unloaded to make room for another
    created: int = field(default_factory=lambda: int(time.time()))
    asked: float = field(default_factory=time.monotonic)  # when a request last named it

    @property
    def is_idle(self) -> bool:
        """Nothing runs or waits under its name."""
        return not self.lane.running and not self.lane.waiting

    @property
    def may_make_room(self) -> bool:
        """Whether it may be unloaded when another needs the memory."""
        return self.is_idle and not self.is_pinned and self.parent is not None

    def card(self) -> dict[str, Any]:
        """One entry of GET /v1/models: vLLM's fields, and ours under `ratchet`."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "ratchet",
            "root": self.root,
            "parent": self.parent,
            "max_model_len": self.max_model_len,
            "ratchet": {
                "digest": self.digest,
                "bytes": self.bytes,
                "merge_error": self.merged.error,
                "logit_shift": self.merged.shift,
                "dtype": str(self.merged.dtype).removeprefix("torch."),
                "pinned": self.is_pinned,
                "running": self.lane.running,
                "waiting": self.lane.waiting,
            },
        }
