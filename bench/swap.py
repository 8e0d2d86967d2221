"""`make bench NAME=swap`: promotions and rollbacks under 16 clients that never stop asking.

Each promotion is of a version that no engine held before, so it pays for the load, the merge and the probe;
each rollback is one row. What the reconciler unloads must give its memory back. Beside it, what a user would
do without us: stop the engine and start it with the other model, under the same clients.
`python -m bench.swap --quick` takes 2 and 2 in place of 10 and 10.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench._claims import ROOT, Claim, publish
from bench._load import Clients, Seen, Target, percentile, questions, stream
from bench._stack import SLUG, Child, answers, engine, fresh_stack, memory_mib, stop, web, worker_and_beat
from demo.stack import Stack

CLIENTS = 16
SAMPLING: dict[str, Any] = {"max_tokens": 32, "temperature": 0.8}
BEFORE_S = 20.0
RESTARTS = 2
MAX_FLIP_MS, MAX_TTFT_RATIO, MAX_GROWTH_MIB = 50, 2.0, 4.0
MAX_EXCESS_MIB = 32.0
REGISTER = """
from pathlib import Path
from inference.services.versions import register_version
from projects.models import Project
for folder in {folders!r}:
    register_version(project=Project.objects.get(slug={slug!r}), kind="adapter", artifact=Path(folder))
"""


@dataclass
class Seasons:
    """What the swaps showed. Spans are seconds of time.monotonic()."""

    before: tuple[float, float] = (0.0, 0.0)
    swaps: list[tuple[float, float]] = field(default_factory=list)
    flips_ms: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MiB of the engine after each swap, unused ones gone
    seen: list[Seen] = field(default_factory=list)

    def ttft(self, spans: list[tuple[float, float]]) -> list[float]:
        return [s.ttft_ms for s in self.seen if any(a <= s.started < b for a, b in spans)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 promotions and 2 rollbacks, one restart")
    quick = parser.parse_args().quick
    command = "python -m bench.swap --quick" if quick else "make bench NAME=swap"
    cycles = 2 if quick else 10
    with fresh_stack() as (stack, key):
        adapters = make_versions(stack, cycles)
        with engine(stack) as served, web(stack), worker_and_beat(stack):
            seasons = asyncio.run(swaps(stack, key, served, cycles))
        restarted, gaps = asyncio.run(restarts(stack, adapters[0], 1 if quick else RESTARTS))
    claim(command, seasons, restarted, gaps)
    return 0


def make_versions(stack: Stack, count: int) -> list[Path]:
    """Random adapters, two of them in turns, registered as v2, v3, ..."""
    adapters = [stack.folder / f"adapter-{seed}" for seed in (1, 2)]
    for seed, folder in enumerate(adapters, 1):
        _peers(stack, "adapter", str(folder), str(seed))
    folders = [str(adapters[number % 2]) for number in range(count)]
    stack.manage("shell", "-c", REGISTER.format(folders=folders, slug=SLUG))
    return adapters


def _peers(stack: Stack, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bench._peers", *arguments], cwd=ROOT, env=stack.env, check=True)


async def swaps(stack: Stack, key: str, served: Child, cycles: int) -> Seasons:
    seasons, target = Seasons(), Target(stack.url, key, SLUG)
    async with httpx.AsyncClient(base_url=stack.url, trust_env=False, timeout=120) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        clients = Clients(target, questions(), CLIENTS, **SAMPLING)
        try:
            await asyncio.sleep(5)
            began = time.monotonic()
            await asyncio.sleep(BEFORE_S)
            seasons.before = (began, time.monotonic())
            for number in range(2, cycles + 2):
                body = {"version": f"v{number}", "override": True, "reason": "Measured by bench/swap.py."}
                await one_swap(http, target, body, _label(number), seasons)
                await settle(stack, served, seasons, held=number, left=1)
                back = {"rollback": True, "reason": "Measured by bench/swap.py."}
                await one_swap(http, target, back, _label(1), seasons)
                await settle(stack, served, seasons, held=number, left=number)
        finally:
            seasons.seen = await clients.stop()
    return seasons


async def one_swap(
    http: httpx.AsyncClient, target: Target, body: dict[str, Any], wanted: str, seasons: Seasons
) -> None:
    """Deploy, then ask as anybody would: the flip lasts from the row until a new request is admitted."""
    began = time.monotonic()
    response = await http.post("/api/v1/deployments", json=body)
    if response.status_code != 201:
        raise SystemExit(f"the deployment was refused: {response.status_code} {response.text[:400]}")
    probe = await stream(target, "Say hello.", max_tokens=4, temperature=0.0)
    now, wall = time.monotonic(), time.time()
    if probe.models != {wanted} or probe.admitted is None:
        raise SystemExit(f"after the deployment {wanted} did not answer: {probe}")
    committed = datetime.fromisoformat(response.json()["created"]).timestamp()
    seasons.flips_ms.append((wall - (now - probe.admitted) - committed) * 1000)
    seasons.swaps.append((began, probe.admitted + 1.0))
    print(
        f"{wanted:10} {'back' if 'rollback' in body else 'promoted':9}"
        f" took {probe.admitted - began:6.2f} s, flip {seasons.flips_ms[-1]:6.1f} ms",
        flush=True,
    )


def _label(number: int) -> str:
    return f"{SLUG}@v{number}"


async def settle(stack: Stack, served: Child, seasons: Seasons, *, held: int, left: int) -> None:
    """Until the engine holds the base and v`held` alone and v`left` answers no more; then look."""
    deadline = time.monotonic() + 30
    headers = {"Authorization": f"Bearer {stack.env['ENGINE_API_KEY']}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=30) as http:
        while time.monotonic() < deadline:
            models = (await http.get(stack.env["ENGINE_URLS"] + "/v1/models")).json()["data"]
            names = {entry["id"].rsplit("-", 1)[-1]: entry["id"] for entry in models if entry.get("parent")}
            leaving = names.get(f"v{left}", stack.env["ENGINE_SERVED_NAME"])
            metrics = (await http.get(stack.env["ENGINE_URLS"] + "/metrics")).text
            is_silent = f'vllm:num_requests_running{{model_name="{leaving}"}} 0.0' in metrics
            if set(names) == {f"v{held}"} and is_silent:
                break
            await asyncio.sleep(0.2)
        else:
            print("  the engine still holds more than it should after 30 s")
    await asyncio.sleep(2)
    seasons.memory.append(memory_mib(served.pid))
    print(f"  the engine takes {seasons.memory[-1]:.0f} MiB", flush=True)


async def restarts(stack: Stack, adapter: Path, count: int) -> tuple[list[Seen], list[float]]:
    """The alternative. The streams, and for each restart the seconds in which no token came."""
    merged = stack.folder / "merged"
    await asyncio.to_thread(_peers, stack, "merge", str(adapter), str(merged))
    url, gaps = stack.env["ENGINE_URLS"], []
    target = Target(url, stack.env["ENGINE_API_KEY"], "base")
    env = {"ENGINE_SERVED_NAME": "base"}
    running = engine(stack, **env)
    child = running.__enter__()
    clients = Clients(target, questions(), CLIENTS, **SAMPLING)
    try:
        await asyncio.sleep(10)
        for _ in range(count):
            began = time.monotonic()
            await asyncio.to_thread(stop, child)
            running = engine(stack, **env, MODEL_DIR=str(merged))
            child = await asyncio.to_thread(running.__enter__)
            await asyncio.sleep(10)
            times = sorted(t for s in clients.seen for t in s.times if t > began)
            gaps.append(max((b - a for a, b in zip([began, *times], times, strict=False)), default=0.0))
            failed = sum(not s.is_ok for s in clients.seen)
            print(f"restarted: {gaps[-1]:.1f} s without a token, {failed} requests failed so far", flush=True)
    finally:
        seen = await clients.stop()
        running.__exit__(None, None, None)
        assert answers(url + "/health") is False
    return seen, gaps


def claim(command: str, seasons: Seasons, restarted: list[Seen], gaps: list[float]) -> None:
    count = len(seasons.swaps)
    failed = [s for s in seasons.seen if not s.is_ok]
    mixed = sum(len(s.models) > 1 for s in seasons.seen)
    for one in failed[:3]:
        print(f"  failed: {one.error or one.finish}")
    before, during = seasons.ttft([seasons.before]), seasons.ttft(seasons.swaps)
    calm, busy, flip = percentile(before, 0.99), percentile(during, 0.99), percentile(seasons.flips_ms, 0.99)
    # From the second cycle on: the first fills caches and allocator pools that are kept.
    levels = seasons.memory[2:]
    growth = (levels[-1] - levels[0]) / (len(levels) - 1)
    restarts_failed = sum(not s.is_ok for s in restarted)
    claims = [
        Claim(
            claim=f"failed of {len(seasons.seen)} requests during {count} swaps and rollbacks",
            value=len(failed),
            unit="requests",
            goal="0",
            holds=not failed,
            versus=f"{len(gaps)} restarts of the engine: "
            f"{restarts_failed} of {len(restarted)}, asked again every 0.5 s",
        ),
        Claim(
            claim="answers that more than one version wrote",
            value=mixed,
            unit="answers",
            goal="0",
            holds=mixed == 0,
        ),
        Claim(
            claim="flip p99, from the deployment's row until a new request is admitted to its version",
            value=flip,
            unit="ms",
            goal=f"<= {MAX_FLIP_MS}",
            holds=flip <= MAX_FLIP_MS,
            versus=f"a restart: {max(gaps, default=0.0):.1f} s without a token",
        ),
        Claim(
            claim=f"time to first token p99 during a swap, to before (n={len(during)} and {len(before)})",
            value=busy / calm,
            unit="times",
            goal=f"<= {MAX_TTFT_RATIO:g}",
            holds=busy <= MAX_TTFT_RATIO * calm,
            versus=f"{busy:.0f} ms to {calm:.0f} ms",
        ),
        Claim(
            claim="memory of the engine that a swap leaves behind",
            value=growth,
            unit="MiB",
            goal=f"<= {MAX_GROWTH_MIB:g}",
            holds=growth <= MAX_GROWTH_MIB,
            versus=f"{levels[0]:.0f} MiB at first, {levels[-1]:.0f} at last",
        ),
        Claim(
            claim="memory of the engine above its level, after any of the swaps",
            value=max(levels) - levels[0],
            unit="MiB",
            goal=f"<= {MAX_EXCESS_MIB:g}",
            holds=max(levels) - levels[0] <= MAX_EXCESS_MIB,
            versus=f"{max(levels):.0f} MiB at most; a version's weights are some 270 MB",
        ),
    ]
    publish("swap", command, claims)


if __name__ == "__main__":
    sys.exit(main())
