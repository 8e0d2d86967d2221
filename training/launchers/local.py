"""Children on this machine: each in a session of its own, found again by pid and start time.

The worker that launched a child reaps it. A worker that came after a restart is no parent: it sees the
process while it lives, and judges by the run directory when it is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time

import psutil
from django.conf import settings

from training.launchers.commands import added, command, passed
from training.launchers.protocol import Handle, Job, Sight

# Seconds that two measurements of one process's start may differ by.
_SAME_START = 0.5

# Children of this very process, by pid: only their parent learns their exit code.
_children: dict[int, subprocess.Popen[bytes]] = {}


def start(job: Job) -> Handle:
    """Start the child. Raises OSError when it cannot be started."""
    with (job.folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            command(job),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=settings.ROOT,
            env=passed() | added(job),
            start_new_session=True,
        )
    _children[child.pid] = child
    return {
        "host": socket.gethostname(),
        "pid": child.pid,
        "started": _start_of(child.pid),
        "launched": time.time(),
    }


def poll(handle: Handle) -> Sight:
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


def find(job: Job) -> Handle | None:
    """The child of this folder that leads its session: accelerate's own children have the same last words."""
    wanted = ["-m", job.module, str(job.folder)]
    for process in psutil.process_iter(["pid", "cmdline", "create_time", "status"]):
        facts = process.info
        if (facts["cmdline"] or [])[-3:] != wanted or facts["status"] == psutil.STATUS_ZOMBIE:
            continue
        with contextlib.suppress(ProcessLookupError, psutil.Error):  # it ended between the looks
            if os.getsid(facts["pid"]) == facts["pid"]:
                return {
                    "host": socket.gethostname(),
                    "pid": facts["pid"],
                    "started": facts["create_time"],
                    "launched": facts["create_time"],
                    "fence": process.environ().get("RUN_FENCE", ""),
                }
    return None


def interrupt(handle: Handle) -> None:
    """SIGTERM: the child writes a checkpoint and ends."""
    _send(handle, signal.SIGTERM)


def cancel(handle: Handle) -> None:
    """SIGKILL for the child, its session and its descendants, and wait until it is gone.

    `accelerate launch` gives each of its processes a session of its own.
    """
    if handle.get("host") != socket.gethostname() or not poll(handle).is_alive:
        return
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(int(handle["pid"])).children(recursive=True)
    _send(handle, signal.SIGKILL)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + 5
    while poll(handle).is_alive and time.monotonic() < deadline:
        time.sleep(0.02)


def interrupt_children() -> int:
    """SIGTERM to every child of this process: the worker is told to stop, and so are they."""
    living = [child for child in _children.values() if child.poll() is None]
    for child in living:
        os.killpg(child.pid, signal.SIGTERM)
    return len(living)


def _send(handle: Handle, signal_: signal.Signals) -> None:
    if handle.get("host") != socket.gethostname() or not poll(handle).is_alive:
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
