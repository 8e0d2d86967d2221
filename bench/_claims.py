"""What every bench shares: claims with their numbers, printed as a table and written to var/bench."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One number that we state. `goal` is in words; `versus` is the alternative measured in the same run."""

    claim: str
    value: float | str | None
    unit: str
    goal: str
    holds: bool
    versus: str = ""


def publish(name: str, command: str, claims: list[Claim]) -> Path:
    """Print the claims and write var/bench/<name>.json. A goal that is not reached stays in the list."""
    shared = {"command": command, "machine": machine(), "commit": commit()}
    folder = ROOT / "var" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps([{**asdict(claim), **shared} for claim in claims], indent=2) + "\n")
    print(f"\n{name}: {shared['machine']}, {shared['commit']}")
    for claim in claims:
        mark = "holds" if claim.holds else "FALLS SHORT"
        value = f"{claim.value:,.4g}" if isinstance(claim.value, float) else str(claim.value)
        versus = f"  (versus {claim.versus})" if claim.versus else ""
        print(f"  {mark:11}  {claim.claim}: {value} {claim.unit}, goal {claim.goal}{versus}")
    return path


def machine() -> str:
    """The processor, its cores and the memory."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} x {model}, {gigabytes:.0f} GiB"


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
