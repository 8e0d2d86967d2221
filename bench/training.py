"""`make bench NAME=training`: our run beside a bare TRL script, and what each method costs.

DPO on the default model over the same data, order, arguments and seed: `python -m training.recipes.dpo`,
with its events, account, checkpoint and probe, and bench/_bare_trl.py, which has none of these; in turns, the
better of two each; in fp32, for the curve. What ours adds it adds once a run. Then DPO, KTO, reward, PPO and
RLOO for a few steps: tokens a second, peak memory. `--quick` takes fewer steps, once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench._claims import ROOT, Claim, publish
from training.recipes.rundir import OFFLINE

MODEL = Path(os.environ.get("MODEL_DIR", ROOT / "var/models/smollm2-135m-instruct"))
MAX_RATIO, MAX_DISTANCE = 1.05, 1e-5
SHAPE: dict[str, Any] = {"precision": "fp32", "batch_size": 4, "max_length": 128, "lr_schedule": "linear"}
METHODS = ("dpo", "kto", "reward", "ppo", "rloo")  # the last two read what reward made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, once")
    options = parser.parse_args()
    command = "make bench NAME=training"
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
        claims = beside_trl(Path(folder), steps=4 if options.quick else 24, times=1 if options.quick else 2)
        claims += by_method(Path(folder), steps=2 if options.quick else 4)
    publish("training", "python -m bench.training --quick" if options.quick else command, claims)
    return 0


def beside_trl(folder: Path, *, steps: int, times: int) -> list[Claim]:
    """Ours and bare, in turns. Wall time is of everything, from the start of Python to its end."""
    ours, bare, curves = [], [], {}
    training: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(times):
        run = make_run(folder / f"dpo-{turn}", "dpo", {"max_steps": steps, "save_steps": steps})
        ours.append(timed([sys.executable, "-m", "training.recipes.dpo", str(run)]))
        told = events(run)
        curves["ours"] = [event["metrics"]["loss"] for event in told if event["event"] == "progress"]
        subprocess.run([sys.executable, "-c", ORDER, str(run)], cwd=ROOT, check=True)
        out = folder / f"bare-{turn}.json"
        bare.append(timed([sys.executable, "-m", "bench._bare_trl", str(run), str(out)]))
        found = json.loads(out.read_text())
        curves["bare"] = found["losses"]
        training["ours"].append(seconds_of_training(told))
        training["bare"].append(found["train"])
        print(f"turn {turn}: ours {ours[-1]:.1f} s, bare {bare[-1]:.1f} s", flush=True)
    distance = max(abs(one - other) for one, other in zip(curves["ours"], curves["bare"], strict=True))
    ratio = min(ours) / min(bare)
    steps_alone = {name: min(seconds) for name, seconds in training.items()}
    return [
        Claim(
            claim=f"DPO, {steps} steps: our wall time by a bare TRL script's", value=ratio, unit="ratio",
            goal=f"<= {MAX_RATIO}", holds=ratio <= MAX_RATIO,
            versus=f"bare TRL: {min(bare):.1f} s, {steps_alone['bare']:.1f} s of it training; ours "
            f"{min(ours):.1f} s and {steps_alone['ours']:.1f} s, with events, checkpoint and probe",
        ),
        Claim(
            claim="the same: largest distance of the two loss curves", value=distance, unit="nats",
            goal=f"<= {MAX_DISTANCE:g}", holds=distance <= MAX_DISTANCE,
            versus=f"bare TRL: from {curves['bare'][0]:.4f} to {curves['bare'][-1]:.4f}",
        ),
    ]  # fmt: skip


def seconds_of_training(told: list[dict[str, Any]]) -> float:
    """From the trainer's start to its last checkpoint."""
    times = {event["event"]: datetime.fromisoformat(event["time"]) for event in told}
    return (times["checkpoint"] - times["started"]).total_seconds()


def by_method(folder: Path, *, steps: int) -> list[Claim]:
    """A few steps of each method on the default model; PPO and RLOO against the reward model made here."""
    found, judge = [], None
    for method in METHODS:
        more: dict[str, Any] = {"max_steps": steps}
        if method in ("ppo", "rloo"):
            more |= {"max_new_tokens": 24}
        run = make_run(folder / f"m-{method}", method, more, judge=judge)
        seconds = timed([sys.executable, "-m", f"training.recipes.{method}", str(run)])
        if method == "reward":
            judge = run / "artifact"
        manifest = json.loads((run / "artifact" / "manifest.json").read_text())
        compute = manifest["compute"]
        rate = [event["tokens_per_second"] for event in events(run) if event["event"] == "progress"][-1]
        memory = compute["peak_memory_bytes"] / 1e9
        tokens = sum(compute["tokens"].values())
        found.append(
            Claim(
                claim=f"{method}: {steps} steps",
                value=rate,
                unit="trained tokens/s",
                goal="reported",
                holds=True,
                versus=f"{memory:.1f} GB peak, {tokens:,} tokens of all roles, {seconds:.0f} s with loading",
            )
        )
        print(f"{method}: {rate:.0f} tokens/s, {memory:.1f} GB, {seconds:.0f} s", flush=True)
    return found


def make_run(folder: Path, method: str, config: dict[str, Any], judge: Path | None = None) -> Path:
    """A run directory on the default model with 64 rows, made as the recipes' tests make theirs."""
    given = json.dumps({"method": method, "config": config, "judge": str(judge) if judge else None})
    words = [sys.executable, "-c", MAKE, str(folder), str(MODEL), given, json.dumps(SHAPE)]
    subprocess.run(words, cwd=ROOT, check=True)
    return folder


def timed(words: list[str]) -> float:
    """Seconds until it ends, in the environment that our recipes give themselves: threads that wait sleep.

    Spinning ones, which are torch's own way, made the bare script five times slower on a busy machine.
    """
    began = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - began


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


# Each in a process of its own, so that this one never loads torch.
MAKE = """
import json, sys
from dataclasses import fields
from pathlib import Path
from tests.training.recipes.runs import build_run, labels, pairs, prompts
from training.recipes.config import CONFIGS
folder, base = Path(sys.argv[1]), Path(sys.argv[2])
given, shape = json.loads(sys.argv[3]), json.loads(sys.argv[4])
method = given["method"]
rows = {"kto": labels, "ppo": prompts, "rloo": prompts}.get(method, pairs)(64, seed=1)
known = {one.name for one in fields(CONFIGS[method])}
wanted = {**shape, "learning_rate": 1e-4, **given["config"]}
config = {name: value for name, value in wanted.items() if name in known}
versions = {"reward": Path(given["judge"])} if given["judge"] else None
run = build_run(folder, base, method=method, train=rows, config=config, versions=versions)
spec = json.loads((run / "run.json").read_text())
spec["resources"]["threads"] = 0
(run / "run.json").write_text(json.dumps(spec))
"""
# The rows in the order in which the recipe trains on them: the order is ours to give, not TRL's to find.
ORDER = """
import json, math, sys
from pathlib import Path
from training.recipes.config import DpoConfig
from training.recipes.pairs import longest, read_pairs
from training.recipes.rows import training_order
from transformers import AutoTokenizer
folder = Path(sys.argv[1])
spec = json.loads((folder / "run.json").read_text())
config = DpoConfig.from_dict(spec["config"])
tokenizer = AutoTokenizer.from_pretrained(spec["base"]["path"])
rows = read_pairs(folder / "dataset", "train", tokenizer, {tokenizer.eos_token_id})
order = training_order(
    [longest(row) for row in rows], config.batch_size, spec["seed"], group_by_length=config.group_by_length
)
steps = config.steps(len(rows))
names = ("prompt", "chosen", "rejected", "chosen_ended", "rejected_ended")
kept = [{name: rows[place][name] for name in names} for place in order]
warmup = math.ceil(config.warmup_ratio * steps)
(folder / "order.json").write_text(json.dumps({"rows": kept, "steps": steps, "warmup": warmup}))
"""


if __name__ == "__main__":
    sys.exit(main())
