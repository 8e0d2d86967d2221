"""Background clients that keep streaming, and see from outside whether a swap was felt."""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

from demo.client import Client, Stream

CLIENTS = 3
SAMPLING: dict[str, Any] = {"temperature": 0.8, "max_tokens": 24}


@dataclass
class Traffic:
    """Every stream that ended, and the marks that part them into before, during and after."""

    streams: list[Stream] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, client: Client, model: str, prompts: list[str]) -> None:
        for number in range(CLIENTS):
            self._tasks.append(asyncio.create_task(self._keep_streaming(client, model, prompts, number)))

    async def stop(self) -> None:
        """Let every running answer end, then stop."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _keep_streaming(self, client: Client, model: str, prompts: list[str], seed: int) -> None:
        dice = random.Random(seed)
        while not self._stopping.is_set():
            messages = [{"role": "user", "content": dice.choice(prompts)}]
            # `user` is what a canary sticks to, and what the completion row names as its subject.
            self.streams.append(await client.stream(model, messages, {**SAMPLING, "user": f"client-{seed}"}))
            if self.streams[-1].error:
                await asyncio.sleep(0.5)  # a broken server must not turn this loop into a flood

    async def wait_for(self, count: int, seconds: float = 120) -> None:
        """Until `count` more streams ended."""
        goal = len(self.streams) + count
        deadline = time.monotonic() + seconds
        while len(self.streams) < goal and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def latency(self, start: float, end: float) -> dict[str, float | None]:
        """Time to first token of the streams that began in [start, end), in ms."""
        times = sorted(s.ttft_ms for s in self.streams if start <= s.started < end and s.ttft_ms is not None)
        return {"ttft_ms_p50": percentile(times, 0.5), "ttft_ms_p99": percentile(times, 0.99)}

    def report(self) -> dict[str, int]:
        return {
            "requests": len(self.streams),
            "failed": sum(not stream.is_ok for stream in self.streams),
            "mixed_version": sum(len(stream.versions) > 1 for stream in self.streams),
        }


def percentile(ordered: list[float], share: float) -> float | None:
    """Nearest-rank percentile of an ascending list; None when it is empty."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)
