"""`make bench NAME=serving`: tokens a second and time to first token, against what a user would run instead.

The contestants answer in turns (A B C, A B C, ...) and medians are taken, so that a noisy machine is noisy
for all: our engine, the same through Django, a bare forward loop of transformers at the same batch, plain
`generate` in batches (a batch starts when the one before has ended, and ends with its longest answer), and
vLLM's CPU build with merged weights, which is installed into var/vllm when it is not there. Greedy, the
demo's prompts. What Django adds to the time to the first token is taken where the engine has room: over its
capacity the queue grows with each token/s that is missing, and hides it. bench/streams.py measures it
without a model.
`python -m bench.serving --quick` takes one round of short answers, and vLLM only where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from bench._claims import ROOT, Claim, publish
from bench._leaving import milliseconds_to_free
from bench._load import Seen, Target, arriving, percentile, questions, rate
from bench._peers import Peer, peer
from bench._stack import SLUG, child_process, engine, free_port, fresh_stack, web
from demo.stack import Stack

LEVELS = (1, 8, 16, 32)  # requests at once
STAGGERED = 16  # at once at most, and the batch of `generate`
OVERLOAD, ROOM = 1.5, 0.6  # of the engine's rate, at which requests arrive one by one
MAX_LEAVING_MS = 200
VLLM = ROOT / "var" / "vllm" / "bin" / "vllm"
OURS, DJANGO, FORWARD, GENERATE, PEER = "engine", "Django", "forward loop", "generate", "vLLM"


class Results:
    """Rates and times to first token by (contestant, level); "staggered" and "with room" are arrivals."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, Any], list[float]] = defaultdict(list)
        self.ttft: dict[tuple[str, Any], list[float]] = defaultdict(list)
        self.failed: list[str] = []
        self.left_ms: list[float] = []

    def add(self, name: str, level: Any, tokens_s: float, ttft_ms: list[float]) -> None:
        self.rates[name, level].append(tokens_s)
        self.ttft[name, level] += ttft_ms
        self.failed += [f"{name} at {level}"] if tokens_s <= 0 else []
        print(
            f"{name:13} {level!s:>9} {tokens_s:9.1f} tokens/s   ttft p50 {percentile(ttft_ms, 0.5):8.0f} ms"
            f"   p99 {percentile(ttft_ms, 0.99):8.0f} ms",
            flush=True,
        )

    def add_streams(self, name: str, level: Any, seen: list[Seen]) -> None:
        self.failed += [f"{name} at {level}: {s.error or s.finish}" for s in seen if not s.is_ok]
        self.add(name, level, rate(seen), [s.ttft_ms for s in seen])

    def rate(self, name: str, level: Any) -> float | None:
        found = self.rates.get((name, level))
        return median(found) if found else None

    def p99(self, name: str, level: Any) -> float:
        return percentile(self.ttft[name, level], 0.99)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of short answers at 1 and 8")
    quick = parser.parse_args().quick
    command = "python -m bench.serving --quick" if quick else "make bench NAME=serving"
    if not quick:  # takes a moment when it is there; without it the others are measured
        subprocess.run(["bash", "deploy/setup/vllm.sh"], cwd=ROOT, check=False)
    results = Results()
    with ExitStack() as running:
        stack, key = running.enter_context(fresh_stack())
        running.enter_context(engine(stack))
        running.enter_context(web(stack))
        plain = running.enter_context(peer(stack.env))
        targets = {
            OURS: Target(stack.env["ENGINE_URLS"], stack.env["ENGINE_API_KEY"], served_name(stack)),
            DJANGO: Target(stack.url, key, SLUG),
        }
        if VLLM.exists():
            try:
                targets[PEER] = running.enter_context(vllm(stack))
            except RuntimeError as error:
                print(f"vLLM is left out: {error}")
        bandwidth = asyncio.run(measure(results, targets, plain, quick))
    claim(command, results, bandwidth)
    return 0


def served_name(stack: Stack) -> str:
    return stack.env.get("ENGINE_SERVED_NAME", "base")


@contextmanager
def vllm(stack: Stack) -> Iterator[Target]:
    """The base model, as a merged one would be: run-time LoRA costs vLLM two thirds of its rate."""
    port = free_port()
    env = {
        **{
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")
        },
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [
        str(VLLM), "serve", stack.env["MODEL_DIR"], "--served-model-name", "base", "--dtype", "bfloat16",
        "--max-model-len", "1024", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with child_process("vllm", command, env, stack.folder, url + "/health", 240):
        yield Target(url, "", "base")


async def measure(results: Results, targets: dict[str, Target], plain: Peer, quick: bool) -> dict[str, Any]:
    tokens, rounds, levels = (16, 1, (1, 8)) if quick else (48, 2, LEVELS)
    asked = await long_answers(targets[OURS], tokens)
    sampling: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    for level in levels:  # kernels are chosen by shape, and kept
        warm = [asked[i % len(asked)] for i in range(level)]
        for target in targets.values():
            await arriving(target, warm, [0.0] * level, max_tokens=4, **sampling)
        await asyncio.to_thread(plain.ask, do="forward_loop", questions=warm, tokens=4)
    probe = await arriving(
        targets[OURS], [asked[i % len(asked)] for i in range(STAGGERED)], [0.0] * STAGGERED,
        max_tokens=tokens, **sampling,
    )  # fmt: skip
    # Answers of a quarter to seven quarters of `tokens`, arriving faster than it makes them, and slower.
    count = STAGGERED * 2
    lengths = [tokens * (1 + 2 * (i % 4)) // 4 for i in range(count)]
    arrivals = [i * tokens / rate(probe) / OVERLOAD for i in range(count)]
    with_room = [i * tokens / rate(probe) / ROOM for i in range(count)]
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds}")
        for level in levels:
            burst = [asked[(turn * level + i) % len(asked)] for i in range(level)]
            for name, target in targets.items():
                seen = await arriving(target, burst, [0.0] * level, max_tokens=tokens, **sampling)
                results.add_streams(name, level, seen)
            done = await asyncio.to_thread(plain.ask, do="forward_loop", questions=burst, tokens=tokens)
            results.add(FORWARD, level, done["tokens"] / done["seconds"], [done["ttft_ms"]] * level)
        late = [asked[i % len(asked)] for i in range(count)]
        for name, target in targets.items():
            if name != DJANGO:
                seen = await arriving(target, late, arrivals, max_tokens=lengths, **sampling)
                results.add_streams(name, "staggered", seen)
        for name in (OURS, DJANGO):
            seen = await arriving(targets[name], late, with_room, max_tokens=lengths, **sampling)
            results.add_streams(name, "with room", seen)
        done = await asyncio.to_thread(
            plain.ask, do="generate", questions=late, arrivals=arrivals, lengths=lengths, batch=STAGGERED
        )
        results.add(GENERATE, "staggered", done["tokens"] / done["seconds"], done["ttft_ms"])
    results.left_ms = await milliseconds_to_free(targets[DJANGO], targets[OURS], asked[0])
    found = await asyncio.to_thread(plain.ask, do="bandwidth")
    print(f"memory reads at {found['gb_s']:.1f} GB/s with {found['threads']} threads")
    return found


async def long_answers(target: Target, tokens: int) -> list[str]:
    """Questions whose greedy answer is as long as any that is asked for: Django passes no `ignore_eos` on."""
    asked = questions()[:24]
    seen = await arriving(target, asked, [0.0] * len(asked), max_tokens=tokens * 7 // 4, temperature=0.0)
    long = [question for question, s in zip(asked, seen, strict=True) if s.finish == "length"]
    if len(long) < 8:
        raise SystemExit(f"the engine answers badly: {[s.error or s.finish for s in seen][:5]}")
    return long


def claim(command: str, results: Results, bandwidth: dict[str, Any]) -> None:
    claims = [
        Claim(
            claim="requests that failed",
            value=len(results.failed),
            unit="requests",
            goal="0",
            holds=not results.failed,
            versus="; ".join(results.failed[:3]),
        )
    ]
    for level in sorted({level for _, level in results.rates if isinstance(level, int)}):
        claims += at_level(results, level)
    claims += [*staggered(results), *staggered_peer(results), leaving(results)]
    one = results.rate(OURS, 1)
    if one is not None:
        share = one * bandwidth["weight_bytes"] / 1e9 / bandwidth["gb_s"]
        claims.append(
            Claim(
                claim="one stream: share of what the memory bandwidth allows",
                value=share,
                unit="share",
                goal="reported",
                holds=True,
                versus=f"{bandwidth['gb_s']:.1f} GB/s read by {bandwidth['threads']} threads",
            )
        )
    publish("serving", command, claims)


def at_level(results: Results, level: int) -> list[Claim]:
    ours, django = results.rate(OURS, level), results.rate(DJANGO, level)
    forward, peer_rate = results.rate(FORWARD, level), results.rate(PEER, level)
    assert ours and django and forward
    ttft = ", ".join(
        f"{name} {percentile(results.ttft[name, level], 0.5):.0f}/{results.p99(name, level):.0f}"
        for name in (OURS, DJANGO, PEER)
        if results.ttft[name, level]
    )
    claims = [
        Claim(
            claim=f"{level} at once: engine",
            value=ours,
            unit="tokens/s",
            goal="stated",
            holds=True,
            versus=f"ttft p50/p99 in ms: {ttft}",
        ),
        ratio(f"{level} at once: engine to a bare forward loop", ours, forward, "tokens/s", 0.9),
        ratio(f"{level} at once: through Django to the engine", django, ours, "tokens/s", 0.95),
    ]
    if peer_rate:
        goal = 1.0 if level == 1 else None
        claims.append(ratio(f"{level} at once: engine to vLLM, merged", ours, peer_rate, "tokens/s", goal))
    return claims


def staggered(results: Results) -> list[Claim]:
    ours, plain = results.rate(OURS, "staggered"), results.rate(GENERATE, "staggered")
    assert ours and plain
    added = results.p99(DJANGO, "with room") - results.p99(OURS, "with room")
    half = percentile(results.ttft[OURS, "staggered"], 0.5)
    plain_half = percentile(results.ttft[GENERATE, "staggered"], 0.5)
    return [
        ratio(
            f"arrivals one by one: engine to generate in batches of {STAGGERED}", ours, plain, "tokens/s", 1.2
        ),
        Claim(
            claim="arrivals one by one: engine's time to first token p50",
            value=half,
            unit="ms",
            goal="below generate's",
            holds=half < plain_half,
            versus=f"generate: {plain_half:.0f} ms",
        ),
        Claim(
            claim="arrivals with room: what Django adds to the time to first token p99",
            value=added,
            unit="ms",
            goal="<= 20",
            holds=added <= 20,
            versus=f"the engine alone: {results.p99(OURS, 'with room'):.0f} ms; p50 "
            f"{percentile(results.ttft[DJANGO, 'with room'], 0.5):.0f} to "
            f"{percentile(results.ttft[OURS, 'with room'], 0.5):.0f} ms",
        ),
    ]


def leaving(results: Results) -> Claim:
    longest = max(results.left_ms, default=float("inf"))
    return Claim(
        claim=f"longest of {len(results.left_ms)} times until a client of Django that leaves frees its place",
        value=longest,
        unit="ms",
        goal=f"<= {MAX_LEAVING_MS}",
        holds=longest <= MAX_LEAVING_MS,
        versus="by the engine's own count",
    )


def staggered_peer(results: Results) -> list[Claim]:
    ours, theirs = results.rate(OURS, "staggered"), results.rate(PEER, "staggered")
    if not ours or not theirs:
        return []
    return [ratio("arrivals one by one: engine to vLLM, merged", ours, theirs, "tokens/s", None)]


def ratio(claim: str, ours: float, theirs: float, unit: str, goal: float | None) -> Claim:
    return Claim(
        claim=claim,
        value=ours / theirs,
        unit="times",
        goal="reported" if goal is None else f">= {goal}",
        holds=goal is None or ours / theirs >= goal,
        versus=f"{ours:.1f} to {theirs:.1f} {unit}",
    )


if __name__ == "__main__":
    sys.exit(main())
