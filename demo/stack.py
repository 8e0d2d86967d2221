"""The five processes of the demo: started on the embedded default in a fresh folder, and stopped again."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import httpx

from demo.client import DemoError
from demo.config import GATE_SHARE, PLAN
from demo.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
SLUG = "demo"
PERSON = "ada"


@dataclass
class Stack:
    """Where the demo runs, and what a client needs to call it."""

    folder: Path
    port: int
    env: dict[str, str]
    lock: TextIO
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "processes.log"

    def manage(self, *arguments: str, **env: str) -> str:
        """Run a command of manage.py and return what it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"manage.py {arguments[0]} failed: {done.stderr.strip()[-600:]}")
        return done.stdout.strip()

    def set_up(self, progress: Progress) -> tuple[str, str]:
        """Database, project, person and key, as an operator would make them; then the processes start.

        Returns PERSON's password and the key.
        """
        progress.step(f"a fresh database, project and key in {self.folder.relative_to(ROOT)}")
        self.manage("migrate", "--no-input")
        self.manage("start_project", "--slug", SLUG, "--name", "Demo", "--gate-share", str(GATE_SHARE),
                    "--max-tokens", str(PLAN.sampling["max_tokens"]))  # fmt: skip
        password = secrets.token_urlsafe(9)
        self.manage("create_user", PERSON, "--operator", RATCHET_PASSWORD=password)
        key = self.manage("create_key", "--project", SLUG, "--name", "demo")
        self.start()
        return password, key

    def wait(self, progress: Progress) -> float:
        """Seconds until web and engine answer."""
        start = time.monotonic()
        progress.step("web, engine, worker, trainer and beat start")
        self.wait_until("the web process", self.web_answers, seconds=60)
        self.wait_until("the engine", self.engine_answers, seconds=180)
        return round(time.monotonic() - start, 1)

    def start(self) -> None:
        log = self.log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "honcho", "-f", str(ROOT / "Procfile"), "start"],
            cwd=ROOT,
            env=self.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[self.lock.fileno()],  # the folder is theirs, also when we are killed
        )

    def wait_until(self, what: str, is_ready: Callable[[], bool], seconds: float) -> None:
        """Poll until `is_ready`. Raises DemoError when a process died or the time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise DemoError(f"the processes stopped while waiting for {what}:\n{self.log_tail()}")
            if is_ready():
                return
            time.sleep(0.2)
        raise DemoError(f"{what} did not come within {seconds:.0f} s:\n{self.log_tail()}")

    def web_answers(self) -> bool:
        return _is_up(self.url + "/healthz")

    def engine_answers(self) -> bool:
        return _is_up(self.env["ENGINE_URLS"] + "/health")

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-25:])

    def stop(self) -> None:
        """Ask all processes to end, then make them."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def prepare(folder: Path, port: int, **settings: str) -> Stack:
    """A fresh folder with its own database, broker and secrets. Raises DemoError for a taken port or folder.

    `settings` go into the processes' environment, over the embedded default.
    """
    _refuse_taken(port)
    lock = _locked(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    engine_port = _free_port()
    env = {
        **{name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "BROKER_URL"}},
        "VAR_DIR": str(folder),
        "ARTIFACTS_DIR": str(folder / "artifacts"),
        "PORT": str(port),
        "HOST": "127.0.0.1",
        "ENGINE_PORT": str(engine_port),
        "ENGINE_URLS": f"http://127.0.0.1:{engine_port}",
        "ENGINE_API_KEY": secrets.token_urlsafe(24),
        "SECRET_KEY": secrets.token_urlsafe(48),
        "LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    (folder / "artifacts").mkdir()
    return Stack(folder=folder, port=port, env=env, lock=lock)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(
                f"Port {port} is taken. Stop what listens there, or choose another: PORT=8010 make demo"
            ) from error


def _locked(folder: Path) -> TextIO:
    """A lock beside the folder, held as long as a demo runs in it: to begin anew is to delete what it has."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_suffix(".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise DemoError(
            f"A demo runs in {folder}, and another one would delete what it has. Stop it first (Ctrl-C where "
            "it runs), or start this one from another clone."
        ) from error
    return lock


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
