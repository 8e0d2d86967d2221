"""What the supervisor asks of whatever runs its children: start, find, poll, interrupt, cancel.

A launcher is a module with these five functions. It knows no database: a run's row keeps the handle, a small
JSON object that means something to its launcher alone. The supervisor itself reads of it only `launched`
(seconds since 1970), `waiting` (it stands in a cluster's queue) and `host` (only a trainer there can look).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Handle = dict[str, Any]
Cause = Literal["", "oom", "lost", "timeout", "cancelled", "interrupted"]


class Away(Exception):
    """The cluster does not answer now. Nothing is known, nothing has changed; the next tick asks again."""


class Refused(Exception):
    """The cluster will not take this job, however often it is asked. The message is its own."""


@dataclass(frozen=True)
class Job:
    """A child to start: `python -m module folder`, which is all that a recipe needs."""

    id: str  # the run's; a job is found again by it
    name: str  # for people: kitchen/3
    module: str
    folder: Path
    fence: str  # what the child must find in the folder's `fence`, else it leaves
    processes: int = 1  # that train together, one GPU each
    threads: int = 0  # 0: as many as the machine has
    max_seconds: float = 86_400.0


@dataclass(frozen=True)
class Sight:
    """What can be said of a child: it lives, perhaps still in a queue; or it is gone.

    `code` is its exit code where that is known, negative for the signal that ended it. `cause` and `reason`
    are what the cluster says by itself, in its words.
    """

    is_alive: bool
    code: int | None = None
    is_waiting: bool = False
    cause: Cause = ""
    reason: str = ""


class Launcher(Protocol):
    """Each function may raise Away; `start` may raise Refused and OSError."""

    def start(self, job: Job) -> Handle:
        """Start the child and return the handle by which it is found again."""

    def find(self, job: Job) -> Handle | None:
        """The handle of a living child of this run that nobody noted: its launcher died in between."""

    def poll(self, handle: Handle) -> Sight:
        """How it is now. Never waits for it."""

    def interrupt(self, handle: Handle) -> None:
        """SIGTERM: the child writes a checkpoint and ends. A child that waits in a queue is taken out."""

    def cancel(self, handle: Handle) -> None:
        """SIGKILL, for the child and all that it started. Does nothing where it is gone."""
