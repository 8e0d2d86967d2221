"""The examples of docs/examples do what they say, as they stand there, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from feedback.models import Feedback, Rating
from inference.models import Prompt
from tests.cast import Cast
from tests.processes import Process

EXAMPLES = Path(__file__).resolve().parent.parent / "docs/examples"


@pytest.mark.unit
def test_the_guide_shows_them_as_they_are():
    guide = (EXAMPLES.parent / "api.md").read_text()
    for name in ("feedback.sh", "feedback.py", "feedback.mjs"):
        assert (EXAMPLES / name).read_text() in guide, f"docs/api.md shows another {name}"


def run(web: Process, cast: Cast, *command: str) -> str:
    env = {**os.environ, "RATCHET_URL": str(web.url), "RATCHET_KEY": cast.key, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_python(web: Process, cast: Cast):
    said = run(web, cast, sys.executable, "feedback.py").splitlines()
    assert said == [
        "already_judged first was True",
        "600 thumbs recorded",
        "1000 prompts created",
        "4 judgements of user-17",
        "604 judgements in all",
    ]
    assert Prompt.objects.filter(tags=["demo"]).count() == 1000
    [now] = Rating.objects.usable().filter(subject="user-17")
    assert now.value == -1
    assert now.source == Feedback.Source.API


def test_curl(web: Process, cast: Cast):
    said = run(web, cast, "bash", "feedback.sh")
    assert said.count('"value":1') == 2, "the same answer twice"
    assert Rating.objects.filter(subject="user-18").count() == 1
    assert said.count('"status":201') == 2
    assert '"created":3' in said
    assert '"kind":"flag"' in said
    assert '"kind":"rating"' in said
