"""Real processes for the tests that cross a process: an engine with the tiny model, a web server, a worker.

They run in the environment of the test (its database, broker, VAR_DIR and keys), write a log there, and die
with it. Each can be killed and started again, since that is what some tests are about.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from django.conf import settings
from django.db import connections

ROOT = Path(__file__).resolve().parent.parent
# Which engine the tests run on: ours, or a real vLLM (make test-vllm).
IS_VLLM = os.environ.get("RATCHET_TEST_ENGINE", "ours") == "vllm"


@dataclass
class Process:
    """One process of ours: its command, where it answers (None: it does not), and its log."""

    name: str
    command: list[str]
    url: str | None = None
    health: str = "/healthz"
    env: dict[str, str] | None = None
    program: tuple[str, ...] = (sys.executable, "-m")
    patience: float = 180  # seconds that it may take to start: a busy machine imports torch slowly
    death: str = "KILL"  # the signal when we die; TERM for one that has to end children of its own
    running: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return Path(settings.VAR_DIR) / f"{self.name}.log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises AssertionError with the end of its log."""
        # The kernel ends it with us, also when we are killed.
        guard = ["setpriv", f"--pdeathsig={self.death}", "--"]
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                [*guard, *self.program, *self.command],
                cwd=ROOT,
                env={**environment(), **(self.env or {})},
                stdout=output,
                stderr=output,
                start_new_session=True,  # its own group, for `kill`
            )
        deadline = time.monotonic() + self.patience
        while self.url and not self.answers():
            if self.running.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-3000:]
                self.kill()
                raise AssertionError(f"{self.name} did not start:\n{said}")
            time.sleep(0.05)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}{self.health}", timeout=2, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """SIGTERM, as an orderly stop sends it; SIGKILL after 15 s."""
        if self.running and self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
            try:
                self.running.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL to it and its children, as the kernel sends it when memory is out."""
        if self.running and self.running.poll() is None:
            os.killpg(self.running.pid, signal.SIGKILL)
            self.running.wait()


def environment() -> dict[str, str]:
    """This process's environment, pointed at the database that pytest-django made out of DATABASE_URL."""
    name = str(connections["default"].settings_dict["NAME"])
    url = os.environ["DATABASE_URL"]
    database = f"sqlite:///{name}" if url.startswith("sqlite") else f"{url.rpartition('/')[0]}/{name}"
    return {
        **os.environ,
        "DATABASE_URL": database,
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def engine_process() -> Process:
    """The engine under test, with MODEL_DIR's model, at the address that the settings name."""
    Path(settings.ARTIFACTS_DIR).mkdir(parents=True, exist_ok=True)
    return _vllm() if IS_VLLM else _our_engine()


def _our_engine() -> Process:
    url = settings.ENGINE_URLS[0]
    env = {
        "MODEL_DIR": str(settings.MODEL_DIR),
        "ARTIFACTS_DIR": str(settings.ARTIFACTS_DIR),
        "ENGINE_SERVED_NAME": settings.ENGINE_SERVED_NAME,
        "ENGINE_PORT": url.rpartition(":")[2],
        "ENGINE_MEMORY_GB": "1",
        "ENGINE_THREADS": "1",
        "ENGINE_MAX_MODEL_LEN": "512",
    }
    return Process(name="engine", command=["inference.engine"], url=url, health="/health", env=env)


def _vllm() -> Process:
    """As docs/operations.md says, but in fp32: with a prompt from its prefix cache it says the same again."""
    # More places than a session loads adapters: in one batch with an adapter's requests, vLLM's CPU build
    # answers those of the base with whatever lies in the last place (vLLM #48421).
    places = "128"
    url = settings.ENGINE_URLS[0]
    command = [
        "serve", str(settings.MODEL_DIR), "--served-model-name", settings.ENGINE_SERVED_NAME,
        "--enable-lora", "--max-lora-rank", "16", "--max-loras", places, "--dtype", "float32",
        "--max-model-len", "512", "--enforce-eager",
        "--host", "127.0.0.1", "--port", url.rpartition(":")[2], "--api-key", settings.ENGINE_API_KEY,
    ]  # fmt: skip
    env = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": "",  # our packages are not its own
    }
    return Process(
        name="vllm", command=command, url=url, health="/health", env=env,
        program=(str(ROOT / "var/vllm/bin/vllm"),), patience=240, death="TERM",
    )  # fmt: skip


def web_process(port: int) -> Process:
    """The ASGI server, as the Procfile starts it."""
    options = ["--host", "127.0.0.1", "--port", str(port), "--timeout-graceful-shutdown", "2"]
    command = ["uvicorn", "config.asgi:application", *options]
    return Process(name="web", command=command, url=f"http://127.0.0.1:{port}")


def worker_process(queues: str = "default,training") -> Process:
    """A Celery worker of one thread. It answers nowhere: what it did shows in the rows."""
    quiet = ["--without-gossip", "--without-mingle", "-l", "WARNING"]
    command = ["celery", "-A", "config.celery", "worker", "-Q", queues, "-P", "solo", *quiet]
    return Process(name="worker", command=command)
