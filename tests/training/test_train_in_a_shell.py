"""`manage.py train` as a person sees it: on a terminal, interrupted, resumed, in a pipe. A real training."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cast import Cast, make_cast
from tests.processes import ROOT, environment
from tests.training.conftest import judged
from training.models import Run

pytestmark = [pytest.mark.model, pytest.mark.slow]
CONFIG = {"batch_size": 1, "learning_rate": 1e-3, "lora_r": 4, "lora_alpha": 8, "max_length": 256}
PATIENCE = 300.0  # seconds; a busy machine imports torch slowly


@pytest.fixture
def kitchen(transactional_db: None, tiny_model: Path) -> Cast:
    cast = make_cast()
    judged(cast, 40)
    return cast


class Terminal:
    """A command on a terminal of its own, 100 columns wide; what it wrote so far, and keys to press."""

    def __init__(self, *words: str) -> None:
        self._here, there = pty.openpty()
        os.set_blocking(self._here, False)
        subprocess.run(["stty", "cols", "100"], stdin=there, check=True)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, *words],
            stdin=there, stdout=there, stderr=there, cwd=ROOT, env=environment(),
        )  # fmt: skip
        os.close(there)
        self.said = ""

    def wait_for(self, pattern: str) -> str:
        """Until it wrote that. Raises AssertionError when it ended before, or takes too long."""
        ends = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.said)):
            assert self._read(ends), f"not said: {pattern}\n{self.said[-3000:]}"
        return found[0]

    def end(self) -> int:
        """Its exit status; all that it wrote is then in `said`."""
        ends = time.monotonic() + PATIENCE
        while self._read(ends):
            pass
        return self.process.wait(10)

    def press(self, key: bytes) -> None:
        os.write(self._here, key)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._here)

    def _read(self, ends: float) -> bool:
        """Take up what there is. False when it has closed its terminal."""
        ready, *_ = select.select([self._here], [], [], max(0.0, ends - time.monotonic()))
        if not ready:
            return False
        try:
            said = os.read(self._here, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.said += said.decode()
        return bool(said)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.close()


def test_a_bar_a_cancellation_and_going_on(kitchen: Cast, terminals: list[Terminal]):
    config = json.dumps({**CONFIG, "epochs": 5})
    terminal = Terminal("manage.py", "train", "dpo", "--project", "kitchen", "--here", "--config", config)
    terminals.append(terminal)
    assert "[#" in terminal.wait_for(r"\rrun 1 \[#+\.*\]  \d+/\d+ \d+ %  loss [\d.]+ [^\r]*tokens/s")
    terminal.press(b"\x03")
    assert terminal.end() == 3, terminal.said
    assert "Ctrl-C again leaves at once" in terminal.said
    assert "Go on with: manage.py train --project kitchen --resume 1" in terminal.said
    run = Run.objects.get()
    assert run.status == "cancelled"
    assert list(run.folder.glob("checkpoints/checkpoint-*/complete.json")), "its checkpoint is kept"

    done = subprocess.run(
        [sys.executable, "manage.py", "train", "--project", "kitchen", "--resume", "1", "--here"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stdout
    assert f"step {run.total_steps}/{run.total_steps}" in done.stdout
    assert "Run 1 made kitchen@v2." in done.stdout
    starts = [row.data["step"] for row in run.events.filter(name="started")]
    assert starts == [0, run.step], "it went on where it was cancelled"
