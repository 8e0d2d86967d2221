"""Label Studio, which a team would run instead, in an environment and a folder of its own under var/."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench._claims import ROOT
from bench._stack import free_port

VERSION = "1.23.2"
TOKEN = "b" * 40
FORM = """<View><Text name="text" value="$text"/>
<Choices name="thumb" toName="text"><Choice value="up"/><Choice value="down"/></Choices></View>"""


def install() -> Path:
    """The environment's bin folder, made when it is missing (some minutes)."""
    environment = ROOT / "var" / "label-studio"
    if not (environment / "bin" / "label-studio").exists():
        print(f"installing Label Studio {VERSION} into {environment}, some minutes")
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        wanted = [f"label-studio=={VERSION}", "psycopg2-binary"]
        subprocess.run([str(environment / "bin" / "pip"), "install", "-q", *wanted], check=True)
    return environment / "bin"


@contextmanager
def label_studio(folder: Path, postgres: tuple[int, str] | None) -> Iterator[str]:
    """A running server with an empty database; its address. `postgres` is (port, database)."""
    folder.mkdir(parents=True)
    port = free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "PYTHON"))},
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "LOG_LEVEL": "ERROR",
        "DEBUG": "false",
    }
    for name in ("SECRET_KEY", "ALLOWED_HOSTS", "DATABASE_URL", "CSRF_TRUSTED_ORIGINS"):
        env.pop(name, None)  # ours mean something else there
    if postgres is not None:
        env |= {
            "DJANGO_DB": "default",
            "POSTGRE_NAME": postgres[1],
            "POSTGRE_USER": "ratchet",
            "POSTGRE_PASSWORD": "",
            "POSTGRE_HOST": "127.0.0.1",
            "POSTGRE_PORT": str(postgres[0]),
        }
    command = [
        str(install() / "label-studio"), "start", "--no-browser", "--init", "--port", str(port),
        "--username", "bench@example.com", "--password", "a-password-for-benches",
        "--user-token", TOKEN, "--enable-legacy-api-token",
    ]  # fmt: skip
    log = folder / "log.txt"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, env=env, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while not _answers(url):
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Label Studio did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def make_tasks(url: str, count: int) -> tuple[int, list[int]]:
    """A project with so many tasks: its id and theirs."""
    with httpx.Client(base_url=url, headers=headers(), timeout=120, trust_env=False) as client:
        made = client.post("/api/projects", json={"title": "bench", "label_config": FORM})
        made.raise_for_status()
        project = int(made.json()["id"])
        tasks = [{"text": f"Question {number}?"} for number in range(count)]
        client.post(f"/api/projects/{project}/import", json=tasks).raise_for_status()
        deadline = time.monotonic() + 60
        while True:
            page = client.get("/api/tasks", params={"project": project, "page_size": count}).json()
            ids = [int(task["id"]) for task in page["tasks"]]
            if len(ids) == count:
                return project, ids
            if time.monotonic() > deadline:
                raise SystemExit(f"Label Studio has {len(ids)} of {count} tasks after a minute")
            time.sleep(0.5)


def count_annotations(url: str, project: int) -> int:
    with httpx.Client(base_url=url, headers=headers(), timeout=120, trust_env=False) as client:
        return int(client.get(f"/api/projects/{project}").json()["total_annotations_number"])


def headers() -> dict[str, str]:
    return {"Authorization": f"Token {TOKEN}"}


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=3, trust_env=False).is_success
    except httpx.HTTPError:
        return False
