"""Our DPO recipe with its last step under torch's profiler.

    python -m bench._profiled RUN_DIR OUT.json

OUT.json: {"shares": {kind: share of the step's wall time}, "kernels": [[name, milliseconds], ...]}.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Trainer

from training.recipes import dpo
from training.recipes.rundir import run_recipe

# What a kernel's name says it is, the first that fits.
KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "splitk"),
    "copies and casts": ("copy", "memcpy", "memset", "direct_copy", "cat"),
}
OTHER, IDLE = "other elementwise", "no kernel"


def kind_of(name: str) -> str:
    low = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in low for word in words)), OTHER)


def main() -> int:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    last = json.loads((folder / "run.json").read_text())["config"]["max_steps"] - 1
    plain: Any = Trainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step != last:
            return plain(self, *args, **kwargs)
        on_gpu = torch.cuda.is_available()
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        if on_gpu:
            torch.cuda.synchronize()
        began = time.monotonic()
        with profile(activities=[activity]) as seen:
            loss = plain(self, *args, **kwargs)
            if on_gpu:
                torch.cuda.synchronize()
        wall = (time.monotonic() - began) * 1e6
        field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        kernels = [(one.key, getattr(one, field)) for one in seen.key_averages()]
        kernels.sort(key=lambda pair: -pair[1])
        shares: dict[str, float] = {}
        for name, microseconds in kernels:
            shares[kind_of(name)] = shares.get(kind_of(name), 0) + microseconds / wall
        shares[IDLE] = max(0.0, 1 - sum(shares.values()))
        found = {"shares": shares, "kernels": [[name[:160], us / 1000] for name, us in kernels[:30]]}
        out.write_text(json.dumps(found))
        return loss

    Trainer.training_step = training_step  # type: ignore[method-assign]
    return run_recipe(folder, "dpo", dpo.train)


if __name__ == "__main__":
    sys.exit(main())
