"""`make bench NAME=streams`: 300 streams relayed at once, from an engine that costs nothing.

Beside it the same streams straight from that engine (what the machine and the client alone do to the gaps)
and through a bare ASGI proxy (what a relay costs that writes nothing down and checks nothing).
`python -m bench.streams --quick` takes 60 streams of 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench._claims import Claim, publish
from bench._load import Seen, Target, arriving, percentile, questions
from bench._stack import SLUG, Child, free_port, fresh_stack, memory_mib, running, web
from demo.stack import Stack

MAX_GAP_MS = 200
MAX_ADDED_MS = 20
RAMP_S = 3.0
FEW_STREAMS = 16


@dataclass
class Arm:
    """One way to the stub engine, and what was seen of it."""

    name: str
    target: Target
    child: Child
    few: list[Seen]
    many: list[Seen]
    mib_per_stream: float = 0.0
    connections: int = 0  # more than when no stream is open


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 streams of 5 s in place of 300 of 20 s")
    quick = parser.parse_args().quick
    command = "python -m bench.streams --quick" if quick else "make bench NAME=streams"
    count, tokens = (60, 50) if quick else (300, 200)
    stub_port, proxy_port = free_port(), free_port()
    stub_url, proxy_url = f"http://127.0.0.1:{stub_port}", f"http://127.0.0.1:{proxy_port}"
    with (
        fresh_stack(ENGINE_URLS=stub_url, MAX_STREAMS="400") as (stack, key),
        running(
            "stub", ["bench._stub_engine", "engine", str(stub_port)], stack, stub_url + "/health"
        ) as stub,
        running(
            "proxy", ["bench._stub_engine", "proxy", str(proxy_port), stub_url], stack, proxy_url + "/health"
        ) as proxy,
        web(stack) as site,
    ):
        model = stack.env.get("ENGINE_SERVED_NAME", "base")
        arms = [
            Arm("straight", Target(stub_url, "", model), stub, [], []),
            Arm("bare proxy", Target(proxy_url, "", model), proxy, [], []),
            Arm("Ratchet", Target(stack.url, key, SLUG), site, [], []),
        ]
        asyncio.run(measure(arms, stack, count, tokens, rounds=5 if quick else 10))
    claim(command, arms, count, tokens)
    return 0


async def measure(arms: list[Arm], stack: Stack, count: int, tokens: int, *, rounds: int) -> None:
    asked = questions()
    for arm in arms:  # imports, connections, caches
        await arriving(arm.target, asked[:FEW_STREAMS], [0.0] * FEW_STREAMS, max_tokens=2)
    for _ in range(rounds):
        for arm in arms:
            arm.few += await arriving(
                arm.target, asked[:FEW_STREAMS], [i * 0.05 for i in range(FEW_STREAMS)], max_tokens=10
            )
    print(
        f"{'':12} {'streams':>7} {'errors':>6} {'ttft p50':>9} {'ttft p99':>9} {'gap p99':>8} {'KiB each':>9}"
    )
    for arm in arms:
        before, handles = memory_mib(arm.child.pid), database_handles(arm.child.pid, stack)
        arrivals = [RAMP_S * number / count for number in range(count)]
        many = asyncio.create_task(
            arriving(arm.target, [asked[i % len(asked)] for i in range(count)], arrivals, max_tokens=tokens)
        )
        await asyncio.sleep(RAMP_S + (tokens * 0.1 - RAMP_S) / 2)  # all are open, none has ended
        arm.mib_per_stream = (memory_mib(arm.child.pid) - before) / count
        arm.connections = database_handles(arm.child.pid, stack) - handles
        arm.many = await many
        ttft = [seen.ttft_ms for seen in arm.many]
        print(
            f"{arm.name:12} {count:7} {sum(not s.is_ok for s in arm.many):6} {percentile(ttft, 0.5):9.1f} "
            f"{percentile(ttft, 0.99):9.1f} {gap_p99(arm):8.1f} {arm.mib_per_stream * 1024:9.0f}",
            flush=True,
        )
        for seen in [seen for seen in arm.many if not seen.is_ok][:3]:
            print(f"  {seen.error or seen.finish}")
        await asyncio.sleep(1)


def database_handles(pid: int, stack: Stack) -> int:
    """How often the process has the database file open: once a connection."""
    name = str(stack.folder / "ratchet.sqlite3")
    return sum(Path(file.path) == Path(name) for file in psutil.Process(pid).open_files())


def gap_p99(arm: Arm) -> float:
    return percentile([gap for seen in arm.many for gap in seen.gaps_ms], 0.99)


def claim(command: str, arms: list[Arm], count: int, tokens: int) -> None:
    straight, proxy, ours = arms
    failed = sum(not seen.is_ok or seen.tokens != tokens for seen in ours.many)
    added = [first_p99(arm) - first_p99(straight) for arm in (ours, proxy)]
    claims = [
        Claim(
            claim=f"failed or shortened of {count} relayed streams of {tokens} tokens at 10 tokens/s",
            value=failed,
            unit="streams",
            goal="0",
            holds=failed == 0,
            versus=f"a bare ASGI proxy: {sum(not seen.is_ok for seen in proxy.many)}",
        ),
        Claim(
            claim=f"gap p99 of {count} relayed streams",
            value=gap_p99(ours),
            unit="ms",
            goal=f"<= {MAX_GAP_MS}",
            holds=gap_p99(ours) <= MAX_GAP_MS,
            versus=f"a bare ASGI proxy: {gap_p99(proxy):.1f} ms, straight: {gap_p99(straight):.1f} ms",
        ),
        Claim(
            claim="memory of the web process for each open stream",
            value=ours.mib_per_stream * 1024,
            unit="KiB",
            goal="stated",
            holds=True,
            versus=f"a bare ASGI proxy: {proxy.mib_per_stream * 1024:.0f} KiB",
        ),
        Claim(
            claim=f"database connections that {count} open streams hold, over what the process keeps without",
            value=ours.connections,
            unit="connections",
            goal="0",
            holds=ours.connections <= 0,
        ),
        Claim(
            claim=f"time to first token p99 that the relay adds at {FEW_STREAMS} streams",
            value=added[0],
            unit="ms",
            goal=f"<= {MAX_ADDED_MS}",
            holds=added[0] <= MAX_ADDED_MS,
            versus=f"a bare ASGI proxy: {added[1]:.1f} ms",
        ),
    ]
    publish("streams", command, claims)


def first_p99(arm: Arm) -> float:
    return percentile([seen.ttft_ms for seen in arm.few], 0.99)


if __name__ == "__main__":
    sys.exit(main())
