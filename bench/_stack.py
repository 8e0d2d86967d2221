"""The processes of a bench: each in its own group, waited for until it answers, and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from demo.stack import ROOT, Stack, prepare

SLUG = "bench"
Child = subprocess.Popen[bytes]


@contextmanager
def fresh_stack(**settings: str) -> Iterator[tuple[Stack, str]]:
    """A migrated installation on the embedded default in a temporary folder, with the key of its project.

    Nothing runs yet; `settings` go over the embedded default. The folder goes when the bench leaves.
    """
    signal.signal(signal.SIGTERM, _interrupt)  # so that `finally` runs, and takes the children along
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
        stack = prepare(Path(folder) / "var", free_port(), **settings)
        stack.env.pop("ENGINE_API_KEY_FILE", None)  # the clone's own key, which would win over this stack's
        stack.manage("migrate", "--no-input")
        stack.manage("start_project", "--slug", SLUG, "--name", "Bench")
        yield stack, stack.manage("create_key", "--project", SLUG, "--name", "bench")


@contextmanager
def web(stack: Stack) -> Iterator[Child]:
    command = ["uvicorn", "config.asgi:application", "--port", str(stack.port), "--no-access-log"]
    with running(
        "web", [*command, "--timeout-graceful-shutdown", "5"], stack, stack.url + "/healthz"
    ) as child:
        yield child


@contextmanager
def engine(stack: Stack, **env: str) -> Iterator[Child]:
    url = stack.env["ENGINE_URLS"]
    with running("engine", ["inference.engine"], stack, url + "/health", **env) as child:
        yield child


@contextmanager
def worker_and_beat(stack: Stack) -> Iterator[None]:
    """Who unloads what serves no more: the reconciler's tick."""
    celery = ["celery", "-q", "-A", "config.celery"]
    worker = [*celery, "worker", "-Q", "default", "-P", "threads", "-c", "2", "--without-gossip"]
    with running("worker", [*worker, "--without-mingle", "-l", "ERROR"], stack):
        schedule = str(stack.folder / "beat-schedule")
        with running("beat", [*celery, "beat", "-s", schedule, "-l", "ERROR"], stack):
            yield


@contextmanager
def running(
    name: str, module: list[str], stack: Stack, ready: str | None = None, *, seconds: float = 120, **env: str
) -> Iterator[Child]:
    """`python -m MODULE...` until the block ends; entered when `ready` answers 2xx."""
    command = [sys.executable, "-m", *module]
    with child_process(name, command, {**stack.env, **env}, stack.folder, ready, seconds) as child:
        yield child


@contextmanager
def child_process(
    name: str, command: list[str], env: dict[str, str], folder: Path, ready: str | None, seconds: float
) -> Iterator[Child]:
    """Raises RuntimeError with the end of its log when it does not come up."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + seconds
        while ready and not answers(ready):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.1)
        yield child
    finally:
        stop(child)


def stop(child: Child) -> None:
    """SIGTERM, then SIGKILL to its whole group."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=15)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def memory_mib(pid: int) -> float:
    """Memory of a process and its children in MiB, without the files that the system may drop again."""
    process = psutil.Process(pid)
    seen = [part.memory_info() for part in [process, *process.children(recursive=True)]]
    return sum(one.rss - one.shared for one in seen) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
