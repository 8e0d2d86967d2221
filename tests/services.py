"""Real PostgreSQL and Redis for one test session, from the system's own binaries, on free ports.

`RATCHET_TEST_BACKEND` is `services` (the default where the binaries exist) or `embedded` (SQLite and the
filesystem broker). The servers belong to the first pytest process: the workers of pytest-xdist find them in
the environment, and each has its own database, Redis number and VAR_DIR. They die with that process, however
it ends. Nothing is synced to disk: a test database need not survive a power cut.
"""

from __future__ import annotations

import getpass
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BACKEND = "RATCHET_TEST_BACKEND"
SHARED = "RATCHET_TEST_SESSION"  # JSON, set by the first process for its workers
MEND = "apt-get install postgresql redis-server, or set RATCHET_TEST_BACKEND=embedded"

_children: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []


class ServiceError(Exception):
    """A server that the tests need is missing or did not start; the message says what mends it."""


def prepare_environment() -> str:
    """Start what is needed, point this process's environment at it, and return the backend's name.

    Must run before Django's settings are read. In a worker of pytest-xdist nothing is started.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    if SHARED not in os.environ:
        os.environ[SHARED] = json.dumps(_start())
    session = json.loads(os.environ[SHARED])
    var_dir = Path(session["folder"]) / worker
    var_dir.mkdir(exist_ok=True)
    os.environ["VAR_DIR"] = str(var_dir)
    if session["backend"] == "services":
        number = int(worker.removeprefix("gw"))
        os.environ["DATABASE_URL"] = f"postgres://ratchet@127.0.0.1:{session['postgres']}/ratchet"
        os.environ["BROKER_URL"] = f"redis://127.0.0.1:{session['redis']}/{number}"
    else:
        os.environ["DATABASE_URL"] = f"sqlite:///{var_dir}/ratchet.sqlite3"
        os.environ["BROKER_URL"] = "filesystem://"
    return str(session["backend"])


def stop() -> None:
    """Stop the servers and remove their files; does nothing in a worker or when called again."""
    while _children:
        process, gently = _children.pop()
        process.send_signal(gently)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if SHARED in os.environ and "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(json.loads(os.environ.pop(SHARED))["folder"], ignore_errors=True)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start() -> dict[str, str | int]:
    """Start the servers of the chosen backend. Raises ServiceError."""
    postgres, redis = _postgres_binaries(), shutil.which("redis-server")
    backend = os.environ.get(BACKEND) or ("services" if postgres and redis else "embedded")
    if backend not in {"services", "embedded"}:
        raise ServiceError(f"{BACKEND} must be services or embedded, got {backend!r}")
    folder = Path(tempfile.mkdtemp(prefix="ratchet-tests-"))
    session: dict[str, str | int] = {"backend": backend, "folder": str(folder)}
    if backend == "services":
        try:
            if not postgres or not redis:
                raise ServiceError(f"PostgreSQL or Redis is not installed: {MEND}")
            session["redis"] = _start_redis(redis, folder / "redis")
            session["postgres"] = _start_postgres(postgres, folder)
        except BaseException:
            os.environ[SHARED] = json.dumps(session)
            stop()
            raise
    return session


def _postgres_binaries() -> Path | None:
    """The newest of Debian's PostgreSQL versions, else the one on the path."""
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda path: float(path.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _start_postgres(binaries: Path, folder: Path) -> int:
    """A cluster in `folder`. Returns its port."""
    cluster = Postgres(binaries, folder)
    cluster.start()
    return cluster.port


class Postgres:
    """A cluster in a folder, run as an ordinary user (PostgreSQL refuses root)."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        self._command, self._as_owner = _make_cluster(binaries, folder, self.port)

    @property
    def url(self) -> str:
        return f"postgres://ratchet@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        # SIGINT is PostgreSQL's fast stop: it ends sessions instead of waiting for them.
        _run(self._command, self._as_owner, self._folder / "postgres.log", signal.SIGINT, self.answers)
        self._process = _children[-1][0]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def own_postgres(folder: Path) -> Postgres:
    """A cluster of a test's own, not yet started. Raises ServiceError."""
    binaries = _postgres_binaries()
    if binaries is None:
        raise ServiceError(f"PostgreSQL is not installed: {MEND}")
    return Postgres(binaries, folder)


def _make_cluster(binaries: Path, folder: Path, port: int) -> tuple[list[str], list[str]]:
    """Its command, and setpriv's options for whom it runs as (none when that is us)."""
    data = folder / "postgres"
    data.mkdir(mode=0o700)
    folder.chmod(0o711)  # the other user must pass through
    owner = _ordinary_user()
    as_owner: list[str] = []
    if owner:
        shutil.chown(data, owner)
        as_owner = [f"--reuid={owner}", f"--regid={pwd.getpwnam(owner).pw_gid}", "--clear-groups"]
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "ratchet", "--auth=trust", "--no-sync"]
    locale = ["--encoding=UTF8", "--locale=C.UTF-8"]
    made = subprocess.run(
        ["setpriv", *as_owner, "--", *initdb, *locale] if as_owner else [*initdb, *locale],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise ServiceError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
    options = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "200",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *settings], as_owner


def _start_redis(binary: str, folder: Path) -> int:
    """A Redis that keeps nothing. Returns its port."""
    folder.mkdir()
    port = free_port()
    keep_nothing = ["--save", "", "--appendonly", "no", "--databases", "64", "--dir", str(folder)]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", *keep_nothing]

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    _run(command, [], folder / "redis.log", signal.SIGTERM, answers)
    return port


def _ordinary_user() -> str | None:
    """Whom PostgreSQL runs as when we are root; None when we are an ordinary user ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _run(
    command: list[str], as_owner: list[str], log: Path, gently: signal.Signals, answers: Callable[[], bool]
) -> None:
    """Start a server that gets `gently` when this process dies, and wait a minute at most for an answer."""
    guard = ["setpriv", *as_owner, f"--pdeathsig={gently.name.removeprefix('SIG')}", "--"]
    with log.open("wb") as output:
        process = subprocess.Popen([*guard, *command], cwd=log.parent, stdout=output, stderr=output)
    _children.append((process, gently))
    deadline = time.monotonic() + 60
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()[-1000:]
            raise ServiceError(f"{Path(command[0]).name} did not start (as {getpass.getuser()}): {said}")
        time.sleep(0.02)
