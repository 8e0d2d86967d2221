"""The child's command and environment, the same for every launcher."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from training.launchers.protocol import Job

# What a child needs of our environment: no database, no broker, no keys.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "HIP_", "ROCR_", "MKL_", "HF_HOME", "TORCH_")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def command(job: Job, python: str = sys.executable) -> list[str]:
    """`python -m module folder`; through accelerate where several processes train together."""
    child = ["-m", job.module, str(job.folder)]
    if job.processes == 1:
        return [python, *child]
    several = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(job.processes)]
    # Port 0: any that is free, so that two runs on a host do not meet. The recipes set precision themselves.
    defaults = ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [python, "-m", "accelerate.commands.launch", *several, *defaults, *child]


def added(job: Job) -> dict[str, str]:
    """What every child is told beside its machine's environment."""
    told = OFFLINE | {"PYTHONUNBUFFERED": "1", "RUN_FENCE": job.fence}
    if job.threads:
        told |= {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    return told


def passed() -> dict[str, str]:
    """What of our environment a child on a machine like this one may see."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES)
    }


def into_log(words: list[str], log: Path) -> list[str]:
    """The same command with its output appended to `log`, and nothing between it and a signal."""
    return ["/bin/sh", "-c", f'exec "$@" >>{shlex.quote(str(log))} 2>&1', "sh", *words]


def as_signal(code: int) -> int:
    """A shell's 137 is signal 9: -9, as of a child of our own."""
    return 128 - code if code > 128 else code
