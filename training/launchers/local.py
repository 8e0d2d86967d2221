"""Children on this machine: each in a session of its own, found again by pid and start time.

The worker that launched a child reaps it. A worker that came after a restart is no parent: it sees the
process while it lives, and judges by the run directory when it is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings

# What a child needs of our environment: no database, no broker, no keys.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "MKL_", "HF_HOME", "TORCH_")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
# Seconds that two measurements of one process's start may differ by.
_SAME_START = 0.5

# Children of this very process, by pid: only their parent learns their exit code.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Sight:
    """What can be said of a child: it lives; or it is gone, with its exit code where that is known.

    A negative code is the signal that ended it.
    """

    is_alive: bool
    code: int | None = None


def launch(module: str, folder: Path, *, threads: int = 0) -> dict[str, Any]:
    """Start `python -m module folder` and return the handle by which it is found again.

    Raises OSError when it cannot be started.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES)
    }
    environment |= OFFLINE | {"PYTHONUNBUFFERED": "1"}
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=settings.ROOT,
            env=environment,
            start_new_session=True,
        )
    _children[child.pid] = child
    return {
        "host": socket.gethostname(),
        "pid": child.pid,
        "started": _start_of(child.pid),
        "launched": time.time(),
    }


def look(handle: dict[str, Any]) -> Sight:
    """Whether the child of `handle` lives. One on another host is taken to live: its heartbeat tells."""
    if handle.get("host") != socket.gethostname():
        return Sight(is_alive=True)
    pid = int(handle["pid"])
    child = _children.get(pid)
    if child is not None:
        code = child.poll()  # reaps it
        if code is None:
            return Sight(is_alive=True)
        del _children[pid]
        return Sight(is_alive=False, code=code)
    return Sight(is_alive=_is_same_process(pid, handle.get("started")))


def find(module: str, folder: Path) -> dict[str, Any] | None:
    """The handle of a living child of this folder that nobody noted: its launcher died in between."""
    wanted = ["-m", module, str(folder)]
    for process in psutil.process_iter(["pid", "cmdline", "create_time", "status"]):
        facts = process.info
        if (facts["cmdline"] or [])[1:] == wanted and facts["status"] != psutil.STATUS_ZOMBIE:
            return {
                "host": socket.gethostname(),
                "pid": facts["pid"],
                "started": facts["create_time"],
                "launched": facts["create_time"],
            }
    return None


def interrupt(handle: dict[str, Any]) -> None:
    """SIGTERM: the child writes a checkpoint and ends."""
    _send(handle, signal.SIGTERM)


def kill(handle: dict[str, Any]) -> None:
    """SIGKILL for the child's whole session, and wait until it is gone."""
    _send(handle, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while look(handle).is_alive and time.monotonic() < deadline:
        time.sleep(0.02)


def interrupt_children() -> int:
    """SIGTERM to every child of this process: the worker is told to stop, and so are they."""
    living = [child for child in _children.values() if child.poll() is None]
    for child in living:
        os.killpg(child.pid, signal.SIGTERM)
    return len(living)


def _send(handle: dict[str, Any], signal_: signal.Signals) -> None:
    if handle.get("host") != socket.gethostname() or not look(handle).is_alive:
        return
    try:
        # The child leads its own session and group, so this reaches its children too.
        os.killpg(int(handle["pid"]), signal_)
    except ProcessLookupError:
        return  # it ended between the look and the signal


def _start_of(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _is_same_process(pid: int, started: float | None) -> bool:
    """False for no process, for a zombie, and for another one that got the same pid later."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or started is None:
            return False
        return bool(abs(process.create_time() - started) < _SAME_START)
    except psutil.NoSuchProcess:
        return False
