"""`make bench NAME=gpu_training`: LoRA DPO of an 8B Llama shape on a GPU, and what limits it.

Random weights cost what real ones cost. Our recipe on pairs of a fixed length, with and without gradient
checkpointing: tokens of the policy a second, model FLOPs utilisation (MFU), peak memory; and by torch's
profiler which kernels one step spends its time in. FLOPs are those of training/recipes/accounting.py, without
what checkpointing repeats and without attention's own products. `--tiny` takes a small shape on whatever
device is there, and shows only that it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from bench._claims import ROOT, Claim, publish
from bench._peers import GpuBench, told
from bench.training import events
from training.recipes.accounting import Weights
from training.recipes.rundir import OFFLINE

LENGTH, STEPS = 1024, 6  # tokens of a text; steps, of which the first two warm up
PAIRS = {False: 4, True: 8}  # with checkpointing? -> pairs a step


def main() -> int:
    called = GpuBench.called("gpu_training", __doc__, "LoRA DPO of an 8B shape on a GPU")
    if called is None:
        return 0
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-") as folder:
        base = Path(folder) / "shape"
        told("shape", str(base), "tiny" if called.is_tiny else "8b")
        ceiling = float(told("rate"))
        length = 64 if called.is_tiny else LENGTH
        claims = [
            claim
            for checkpointing in PAIRS
            for claim in measure(
                Path(folder), base, called.device, ceiling, length, checkpointing=checkpointing
            )
        ]
    publish(called.name, called.command, claims)
    return 0


def measure(
    folder: Path, base: Path, device: str, ceiling: float, length: int, *, checkpointing: bool
) -> list[Claim]:
    """One run of the recipe, its steps timed by its own events; `ceiling` in FLOP/s."""
    pairs = PAIRS[checkpointing]
    run = folder / f"dpo-{checkpointing}"
    config = {
        "batch_size": pairs, "max_length": length, "max_steps": STEPS, "save_steps": STEPS,
        "gradient_checkpointing": checkpointing, "precision": "bf16", "learning_rate": 1e-5,
    }  # fmt: skip
    given = json.dumps({"base": str(base), "config": config, "pairs": pairs * STEPS, "length": length})
    subprocess.run([sys.executable, "-c", MAKE, str(run), given], cwd=ROOT, check=True)
    profile = folder / f"profile-{checkpointing}.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench._profiled", str(run), str(profile)],
        cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"dpo ended with {done.returncode}: {done.stderr[-3000:]}")
    steps = [
        (datetime.fromisoformat(event["time"]), event["step"])
        for event in events(run)
        if event["event"] == "progress"
    ]
    seen: dict[str, Any] = json.loads(profile.read_text())
    # The profiled step is the last one; the first two warm up.
    (began, first), (ended, last) = steps[1], steps[-2]
    seconds = (ended - began).total_seconds() / (last - first)
    compute = json.loads((run / "artifact" / "manifest.json").read_text())["compute"]
    tokens = compute["tokens"]["train"] / STEPS
    weights = Weights(**compute["weights"])
    flops = tokens * weights.flops("train") + compute["tokens"]["reference"] / STEPS * weights.flops(
        "reference"
    )
    shares = ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in seen["shares"].items())
    print(json.dumps({**seen, "seconds": seconds, "tokens": tokens, "flops": flops}), flush=True)
    how = f"{pairs} pairs of 2 x {length} tokens a step" + (", checkpointing" if checkpointing else "")
    return [
        Claim(
            claim=f"LoRA DPO, 8B shape, {how}: policy tokens on {device}",
            value=tokens / seconds,
            unit="tokens/s",
            goal="reported",
            holds=True,
            versus=f"{seconds:.2f} s a step; peak memory {compute['peak_memory_bytes'] / 1e9:.1f} GB",
        ),
        Claim(
            claim=f"the same{', checkpointing' if checkpointing else ''}: model FLOPs utilisation",
            value=flops / seconds / ceiling,
            unit="of a bare product's",
            goal="reported",
            holds=True,
            versus=f"{flops / seconds / 1e12:.0f} TFLOP/s of {ceiling / 1e12:.0f} that bf16 products of 8192 "
            f"reach here; time of a step: {shares}",
        ),
    ]


# In a process of its own, so that this one never loads torch. With the template's tokens a pair has some less
# than the length, so that nothing is cut.
MAKE = """
import json, random, sys
from pathlib import Path
from tests.training.recipes.runs import build_run
from transformers import AutoTokenizer
folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
dice = random.Random(0)
words = ["water", "light", "egg", "minute", "short", "paris", "blue", "system", "wave", "thank"]
tokenizer = AutoTokenizer.from_pretrained(given["base"])
def text():
    said = " ".join(dice.choices(words, k=2 * given["length"]))
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids[: given["length"] - 48])
rows = [
    {
        "prompt": [{"role": "user", "content": f"Number {number}?"}],
        "chosen": [{"role": "assistant", "content": text()}],
        "rejected": [{"role": "assistant", "content": text()}],
        "feedback_ids": [f"f{number}"],
    }
    for number in range(given["pairs"])
]
build_run(folder, Path(given["base"]), train=rows, config=given["config"])
spec = json.loads((folder / "run.json").read_text())
spec["resources"] = {"device": "auto", "threads": 0}
(folder / "run.json").write_text(json.dumps(spec))
"""


if __name__ == "__main__":
    sys.exit(main())
