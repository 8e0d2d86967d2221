"""A PostgreSQL of a bench's own, with its usual durability, in a temporary folder or one that stays."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psycopg

from bench._stack import free_port


@contextmanager
def postgres(kept: Path | None = None, **options: str) -> Iterator[str]:
    """Its address, as DATABASE_URL takes it. The cluster goes when the bench leaves; one in `kept` stays."""
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    binaries = max(installed, key=lambda path: float(path.parent.name))
    temporary = tempfile.TemporaryDirectory(prefix="ratchet-bench-pg-")
    with temporary if kept is None else nullcontext(str(kept.resolve())) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        as_owner: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses root
            owner = pwd.getpwnam("postgres")
            shutil.chown(data, owner.pw_uid, owner.pw_gid)
            ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            as_owner = ["setpriv", *ids, "--"]
        if not any(data.iterdir()):
            initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "ratchet", "--auth=trust"]
            subprocess.run([*as_owner, *initdb, "--encoding=UTF8", "--locale=C.UTF-8"], cwd=folder,
                           check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "512MB",
            "max_wal_size": "4GB",
            **options,
        }
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = (Path(folder) / "log").open("wb")
        server = subprocess.Popen([*as_owner, *command], cwd=folder, stdout=log, stderr=log)
        url = f"postgres://ratchet@127.0.0.1:{port}/postgres"
        try:
            _wait(url, server)
            yield url
        finally:
            server.send_signal(2)  # SIGINT ends its sessions instead of waiting for them
            server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
