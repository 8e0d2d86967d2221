"""A recipe in a few lines for the supervisor's tests: it speaks the run directory's contract, and obeys.

`python -m tests.training.recipe RUN_DIR` does what RUN_DIR/script.json says, a step a list entry; it leaves a
checkpoint after each step, and a later start goes on after the last one:

    {"steps": 3, "seconds": 0.05, "at": {"2": "kill"}}

`at` says what happens at a step, once: kill, freeze, oom, data, diverged, interrupt, deaf, silent_exit.
`end` says how the artifact comes out: whole (default), killed (at once behind it), flipped, bare (no
manifest), foreign (made of another dataset), pickle. With `lingers` the child stays after that until there is
a file `go`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from inference.artifact import write_manifest
from training.recipes.rundir import Heartbeat, write_event

CODES = {"oom": 71, "data": 65, "diverged": 72, "interrupted": 75}


def main() -> int:
    folder = Path(sys.argv[1])
    script = json.loads((folder / "script.json").read_text())
    spec = json.loads((folder / "run.json").read_text())
    done = folder / "checkpoints" / "step"
    done.parent.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: _stop(folder, "interrupted"))
    with Heartbeat(folder):
        first = int(done.read_text()) if done.exists() else 0
        write_event(folder, "started", step=first, total=script["steps"])
        for step in range(first + 1, script["steps"] + 1):
            time.sleep(script.get("seconds", 0.02))
            _do(folder, script.get("at", {}).get(str(step)), step)
            metrics = {"loss": round(0.7 / step, 4), "reward_accuracy": 0.5 + 0.1 * step}
            write_event(
                folder, "progress", step=step, total=script["steps"], metrics=metrics,
                tokens={"train": 100 * step}, tokens_per_second=50.0, seconds_left=1.0,
            )  # fmt: skip
            done.write_text(str(step))
        _publish(folder, spec, script.get("end", "whole"))
        if script.get("end") == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        while script.get("lingers") and not (folder / "go").exists():
            time.sleep(0.01)
        write_event(
            folder, "finished", step=script["steps"], total=script["steps"],
            metrics={"heldout_accuracy": 0.75}, compute={"tokens": {"train": 300}, "pf_days": 1e-9},
        )  # fmt: skip
    return 0


def _do(folder: Path, what: str | None, step: int) -> None:
    marker = folder / f"did-{step}"
    if what is None or (marker.exists() and what != "always_kill"):
        return
    marker.touch()
    if what in ("kill", "always_kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    elif what == "silent_exit":
        os._exit(0)
    else:
        _stop(folder, "interrupted" if what == "interrupt" else what)


def _stop(folder: Path, cause: str) -> None:
    write_event(folder, "failed", cause=cause, message=f"The script says {cause}.")
    os._exit(CODES[cause])


def _publish(folder: Path, spec: dict[str, Any], end: str) -> None:
    partial = folder / "artifact.partial"
    partial.mkdir(exist_ok=True)
    (partial / "adapter_config.json").write_text(json.dumps({"r": 4, "run": spec["run"]}))
    (partial / "adapter_model.safetensors").write_bytes(os.urandom(256))
    if end == "pickle":
        (partial / "training_args.bin").write_bytes(b"not a tensor")
    dataset = "sha256:" + "0" * 64 if end == "foreign" else spec["dataset"]["digest"]
    if end != "bare":
        write_manifest(
            partial, kind="adapter", method="dpo", dataset=dataset, metrics={"heldout_accuracy": 0.75}
        )
    if end == "flipped":
        weights = partial / "adapter_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[7] ^= 1
        weights.write_bytes(bytes(data))
    partial.rename(folder / "artifact")


if __name__ == "__main__":
    sys.exit(main())
