"""`make demo`: start everything on the embedded default and turn the whole loop once on a real model.

PORT chooses the port (8000), TASTE the raters' hidden taste (short), ONCE=1 ends after the report, with a
status other than zero when a promise failed. Everything lies in var/demo; nothing else is touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from demo.client import Client, DemoError
from demo.config import PLAN, prompts
from demo.progress import Progress
from demo.report import Report
from demo.stack import PERSON, ROOT, SLUG, Stack, prepare
from demo.tastes import TASTES
from demo.turn import Turn

FOLDER = ROOT / "var" / "demo"


def main() -> int:
    progress = Progress()
    try:
        taste_name = os.environ.get("TASTE", "short")
        if taste_name not in TASTES:
            raise DemoError(f"There is no taste {taste_name!r}. There are: {', '.join(sorted(TASTES))}.")
        stack = prepare(FOLDER, _port())
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    report = Report(taste=taste_name, is_random=taste_name == "random")
    # A terminal that closes, or a supervisor that stops us, takes the processes along.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        password, key = stack.set_up(progress)
        setup = _setup_seconds()
        report.seconds = {"install": setup["install"], "model": setup["model"] + stack.wait(progress)}
        asyncio.run(_turn(stack, key, taste_name, report, progress))
        report.seconds["total"] = round(time.monotonic() - progress.start + setup["model"], 1)
        report.write(stack.folder / "report.json")
        print(report.as_text(), flush=True)
        broken = report.broken_promises()
        if os.environ.get("ONCE") == "1":
            return 1 if broken else 0
        _stay(stack, password)
        return 0
    except DemoError as error:
        print(f"\nThe demo stopped: {error}\nThe processes' log is {stack.log}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
        return 130
    finally:
        stack.stop()


def _port() -> int:
    value = os.environ.get("PORT", "8000")
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise DemoError(f"PORT must be a number from 1 to 65535, got {value!r}.")
    return int(value)


async def _turn(stack: Stack, key: str, taste: str, report: Report, progress: Progress) -> None:
    async with Client(stack.url, key) as client:
        turn = Turn(client, SLUG, TASTES[taste], PLAN, report, progress)
        await turn.run(prompts())


def _setup_seconds() -> dict[str, float]:
    """What the setup before us took; zero when there was nothing to do."""
    path = ROOT / "var" / "setup.json"
    noted: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {name: float(noted.get(name, 0.0)) for name in ("install", "model")}


def _stay(stack: Stack, password: str) -> None:
    print(
        f"  Ratchet is up:  {stack.url}/p/{SLUG}/\n"
        f"  sign in as      {PERSON} / {password}\n"
        f"  report          {stack.folder / 'report.json'}\n"
        "  Ctrl-C stops it.",
        flush=True,
    )
    signal.pause()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
