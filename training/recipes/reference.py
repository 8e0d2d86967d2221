"""The model that a policy is held to: the base, or the adapter that its run went on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REFERENCE = "ref"  # what TRL names the frozen copy of an adapter that is trained on


@contextmanager
def as_reference(policy: Any) -> Iterator[None]:
    """In here the policy answers as it did when its run began."""
    if REFERENCE not in policy.peft_config:
        with policy.disable_adapter():
            yield
        return
    policy.set_adapter(REFERENCE)
    try:
        yield
    finally:
        policy.set_adapter("default")
