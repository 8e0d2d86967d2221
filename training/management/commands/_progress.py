"""How far a run is, on a terminal as a bar in one line, elsewhere as a line every few seconds."""

from __future__ import annotations

import os
import time
from typing import Any

from django.core.management.base import OutputWrapper

from training.models import Run

SECONDS_BETWEEN_LINES = 5.0
WIDEST_BAR = 30


class Progress:
    """Shows a run on `out` each time it is asked to; says nothing twice."""

    def __init__(self, out: OutputWrapper) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._shown = ""
        self._width = 0  # of the bar's line that stands on the terminal
        self._spoke = 0.0
        self._said = ""

    def show(self, run: Run) -> None:
        """The bar as it is now; or a line, when something is new and the last one is some seconds old."""
        if run.is_active and run.message and run.message != self._said:
            self._said = run.message
            self.say(run.message)
        if self._is_terminal:
            self._draw(bar_of(run, width=_columns(self._out)))
            return
        line = line_of(run)
        late = time.monotonic() - self._spoke >= SECONDS_BETWEEN_LINES
        if line != self._shown and (late or not run.is_active):
            self._shown, self._spoke = line, time.monotonic()
            self._out.write(line)
            self._out.flush()

    def say(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        self._draw("")
        self._out.write(sentence)
        self._out.flush()

    def end(self) -> None:
        """Leave the last bar standing, and write below it from now on."""
        if self._width:
            self._out.write("")
            self._width = 0

    def _draw(self, line: str) -> None:
        if not self._is_terminal or line == self._shown:
            return
        # Spaces over what the line before had more: every terminal knows those.
        self._out.write(f"\r{line}{' ' * (self._width - len(line))}{'' if line else chr(13)}", ending="")
        self._out.flush()
        self._shown, self._width = line, len(line)


def bar_of(run: Run, *, width: int) -> str:
    """`run 3 [#####.....] 12/24 50 %  loss 0.612  accuracy 0.75  812 tokens/s  1:20 left`, in `width` signs.

    What does not fit is left out, the bar first.
    """
    facts = [f"run {run.number}", *_facts(run)]
    if run.total_steps and run.step:
        facts.insert(1, f"{run.step}/{run.total_steps} {run.step / run.total_steps:.0%}".replace("%", " %"))
    while len(facts) > 2 and len("  ".join(facts)) >= width:
        facts.pop()
    room = min(WIDEST_BAR, width - len("  ".join(facts)) - 5)
    if run.total_steps and room >= 5:
        full = round(room * min(1.0, run.step / run.total_steps))
        facts[0] += f" [{'#' * full}{'.' * (room - full)}]"
    return "  ".join(facts)[: width - 1]


def line_of(run: Run) -> str:
    return "  ".join([f"run {run.number}", f"step {run.step}/{run.total_steps}", *_facts(run)])


def _facts(run: Run) -> list[str]:
    """What is known of it in words, the most important first."""
    if run.status == Run.Status.QUEUED:
        return ["waits for a trainer"]
    facts = [] if run.step else ["starting"]
    for name, wording in (
        ("loss", "loss {:.4g}"),
        ("reward_accuracy", "accuracy {:.2f}"),
        ("reward", "reward {:.3g}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
    ):
        value: Any = run.metrics.get(name)
        if isinstance(value, int | float):
            facts.append(wording.format(value))
    left = run.metrics.get("seconds_left")
    if isinstance(left, int | float) and run.status == Run.Status.RUNNING and left > 0:
        facts.append(f"{_clock(left)} left")
    if run.attempt > 1:
        facts.append(f"attempt {run.attempt}")
    if not run.is_active:
        facts.append(run.get_status_display())
    return facts


def _clock(seconds: float) -> str:
    """1:20, or 1:02:03."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _columns(out: OutputWrapper) -> int:
    """How wide the terminal is now; it may be resized meanwhile."""
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
