"""Where a run's child lives: on this machine, in a Slurm job, in a Kubernetes Job. See protocol.py."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from training.launchers.protocol import Launcher

LAUNCHERS = ("local", "slurm", "kubernetes")


def find_launcher(name: str) -> Launcher:
    """The launcher of this name. Imported when it is asked for: each cluster's client is an extra package."""
    if name not in LAUNCHERS:
        raise KeyError(name)
    return cast("Launcher", import_module(f"training.launchers.{name}"))
