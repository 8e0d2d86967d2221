"""`make bench NAME=gpu`: tokens a second on a GPU, where there is one: our engine against `generate`.

A Llama shape of 1.1 billion random weights in bf16, 1, 16 and 64 requests at once of a fixed length; at one
request also the share of what the memory bandwidth allows, since each token reads all weights once.
`python -m bench.gpu --tiny` takes a small shape on whatever device is there, and shows only that it runs.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from bench._claims import Claim, publish
from bench._load import Target, arriving, questions, rate
from bench._peers import GpuBench, Peer, peer, told
from bench._stack import engine, fresh_stack

LEVELS = (1, 16, 64)


def main() -> int:
    called = GpuBench.called("gpu", __doc__, "tokens/s of a 1B shape on a GPU")
    if called is None:
        return 0
    is_tiny = called.is_tiny
    levels, tokens = ((1, 4), 8) if is_tiny else (LEVELS, 256)
    # Room for all prompts and answers of the highest level, and for one version alone.
    room = {"ENGINE_MEMORY_GB": "2" if is_tiny else "24", "ENGINE_MAX_RUNNING": str(max(levels))}
    with fresh_stack() as (stack, _):
        folder = stack.folder / "shape"
        told("shape", str(folder), "tiny" if is_tiny else "1b")
        stack.env |= {"MODEL_DIR": str(folder), "ENGINE_SERVED_NAME": "base"}
        with engine(stack, **room), peer(stack.env) as plain:
            target = Target(stack.env["ENGINE_URLS"], stack.env["ENGINE_API_KEY"], "base")
            found = asyncio.run(measure(target, plain, levels, tokens))
    claim(called, found, plain_bandwidth=found.pop("bandwidth"))
    return 0


async def measure(target: Target, plain: Peer, levels: tuple[int, ...], tokens: int) -> dict[Any, Any]:
    """Level -> (ours, generate's) tokens a second, the better of two; and "bandwidth"."""
    asked, found = questions(), {}
    sampling: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    for level in levels:
        burst = [asked[number % len(asked)] for number in range(level)]
        ours, theirs = [], []
        await arriving(target, burst, [0.0] * level, max_tokens=8, **sampling)  # kernels, graphs
        for _ in range(2):
            seen = await arriving(target, burst, [0.0] * level, max_tokens=tokens, **sampling)
            if failed := [one.error or one.finish for one in seen if not one.is_ok]:
                raise SystemExit(f"{len(failed)} of {level} requests failed: {failed[0]}")
            ours.append(rate(seen))
            done = await asyncio.to_thread(
                plain.ask, do="generate", questions=burst, arrivals=[0.0] * level,
                lengths=[tokens] * level, batch=level,
            )  # fmt: skip
            theirs.append(done["tokens"] / done["seconds"])
        found[level] = (max(ours), max(theirs))
        print(f"{level:3} at once: engine {max(ours):8.1f} tokens/s, generate {max(theirs):8.1f}", flush=True)
    found["bandwidth"] = await asyncio.to_thread(plain.ask, do="bandwidth")
    return found


def claim(
    called: GpuBench, found: dict[int, tuple[float, float]], *, plain_bandwidth: dict[str, Any]
) -> None:
    claims = [
        Claim(
            claim=f"{level} at once: engine on {called.device}",
            value=ours,
            unit="tokens/s",
            goal="reported",
            holds=True,
            versus=f"generate in one batch: {theirs:.1f}",
        )
        for level, (ours, theirs) in found.items()
    ]
    allowed = plain_bandwidth["gb_s"] * 1e9 / plain_bandwidth["weight_bytes"]
    claims.append(
        Claim(
            claim="one request: share of what the memory bandwidth allows",
            value=found[1][0] / allowed,
            unit="share",
            goal="reported",
            holds=True,
            versus=f"{plain_bandwidth['gb_s']:.0f} GB/s over {plain_bandwidth['weight_bytes'] / 1e9:.2f} GB"
            f" of weights: {allowed:.0f} tokens/s",
        )
    )
    publish(called.name, called.command, claims)


if __name__ == "__main__":
    sys.exit(main())
