"""`manage.py` where it cannot begin: a sentence with the reason on stderr, and no trace."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.services import free_port
from tests.source import ROOT

pytestmark = pytest.mark.slow  # processes of their own


def manage(tmp_path, *words, **environment):
    base = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), "LOG_LEVEL": "CRITICAL"}
    return subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=ROOT,
        env=base | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgres://ratchet:secret@127.0.0.1:{port}/ratchet", "Connection refused"),
        ("sqlite:////nowhere/ratchet.sqlite3", "SQLite at /nowhere/ratchet.sqlite3: unable to open"),
        ("sqlite:///{folder}/empty.sqlite3", "Run manage.py migrate first."),
        ("mysql://ratchet:secret@db/ratchet", "Settings: DATABASE_URL must be a URL such as"),
    ],
)
def test_why_the_database_does_not_answer(tmp_path, url, sentence):
    url = url.format(port=free_port(), folder=tmp_path)
    done = manage(tmp_path, "create_user", "ada", DATABASE_URL=url)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not {"Traceback", "secret"} & set(done.stderr.replace(":", " ").replace("@", " ").split())
    assert done.stdout == ""


def test_a_trace_for_who_asks_for_one(tmp_path):
    done = manage(tmp_path, "create_user", "ada", "--traceback", DATABASE_URL=f"sqlite:///{tmp_path}/empty")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
