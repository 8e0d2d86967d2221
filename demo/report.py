"""The demo's report, and the promises that it must hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.client import Json

MAX_TOTAL_SECONDS = 15 * 60
MIN_BATTLES = 100
MIN_WIN_RATE = 0.65
MAX_FLIP_MS = 100.0
MAX_ROLLBACK_MS = 1000.0


@dataclass
class Report:
    taste: str
    is_random: bool
    seconds: dict[str, float] = field(default_factory=dict)
    heldout: Json = field(default_factory=dict)
    verdict: str = ""
    verdict_reason: str = ""
    traffic: dict[str, int] = field(default_factory=dict)
    swap: dict[str, float | None] = field(
        default_factory=lambda: {"load_ms": None, "flip_ms": None, "rollback_ms": None}
    )
    latency: dict[str, dict[str, float | None]] = field(default_factory=dict)
    versions: list[Json] = field(default_factory=list)
    compute: Json = field(default_factory=dict)
    champion_untouched: bool | None = None  # only asked when the verdict is not to promote

    def set_gate(self, evaluation: Json) -> None:
        numbers = evaluation["numbers"]
        self.heldout = {name: numbers[name] for name in ("n", "win_rate", "ci_low", "ci_high")}
        self.verdict, self.verdict_reason = evaluation["verdict"], evaluation["reason"]

    def set_swap(self, *, load_ms: float, flip_ms: float, rollback_ms: float) -> None:
        self.swap = {
            "load_ms": round(load_ms, 1),
            "flip_ms": round(flip_ms, 1),
            "rollback_ms": round(rollback_ms, 1),
        }

    def set_latency(self, **spans: dict[str, float | None]) -> None:
        nothing: dict[str, float | None] = {"ttft_ms_p50": None, "ttft_ms_p99": None}
        self.latency = {name: spans.get(name, nothing) for name in ("before", "during", "after")}

    def broken_promises(self) -> list[str]:
        """What did not hold, in words; empty when all did."""
        checks = [
            (self.seconds["total"] <= MAX_TOTAL_SECONDS, f"total was {self.seconds['total']:.0f} s"),
            (self.heldout["n"] >= MIN_BATTLES, f"only {self.heldout['n']} battles"),
            (self.traffic["requests"] > 0, "no background request was made"),
            (self.traffic["failed"] == 0, f"{self.traffic['failed']} background requests failed"),
            (self.traffic["mixed_version"] == 0, f"{self.traffic['mixed_version']} answers mixed versions"),
        ]
        if self.is_random:
            checks += [
                (self.verdict in ("reject", "insufficient"), f"coin tosses gave the verdict {self.verdict}"),
                (self.champion_untouched is True, "the champion was touched"),
            ]
        else:
            checks += [
                (self.verdict == "promote", f"the verdict is {self.verdict}: {self.verdict_reason}"),
                (self.heldout["win_rate"] >= MIN_WIN_RATE, f"win rate {self.heldout['win_rate']:.3f}"),
                (self.heldout["ci_low"] > 0.5, f"the interval reaches down to {self.heldout['ci_low']:.3f}"),
                (_at_most(self.swap["flip_ms"], MAX_FLIP_MS), f"flip took {self.swap['flip_ms']} ms"),
                (
                    _at_most(self.swap["rollback_ms"], MAX_ROLLBACK_MS),
                    f"rollback took {self.swap['rollback_ms']} ms",
                ),
            ]
        return [text for holds, text in checks if not holds]

    def as_json(self) -> dict[str, Any]:
        return {
            "taste": self.taste,
            "seconds": self.seconds,
            "heldout": self.heldout,
            "verdict": self.verdict,
            "verdict_reason": self.verdict_reason,
            "traffic": self.traffic,
            "swap": self.swap,
            "latency": self.latency,
            "versions": self.versions,
            "compute": self.compute,
            "champion_untouched": self.champion_untouched,
            "broken_promises": self.broken_promises(),
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")

    def as_text(self) -> str:
        """A page for the terminal."""
        seconds = ", ".join(f"{name} {value:.0f}" for name, value in self.seconds.items())
        gate, swap = self.heldout, self.swap
        lines = [
            "",
            f"  verdict    {self.verdict}: {self.verdict_reason}",
            f"  win rate   {gate['win_rate']:.3f}  [{gate['ci_low']:.3f}, {gate['ci_high']:.3f}]"
            f"  over {gate['n']} gate prompts",
            "  traffic    {requests} requests, {failed} failed, {mixed_version} mixed".format(**self.traffic),
        ]
        if swap["flip_ms"] is not None:
            lines.append(
                "  swap       load {load_ms} ms, flip {flip_ms} ms, rollback {rollback_ms} ms".format(**swap)
            )
        for name, span in self.latency.items():
            p50, p99 = span["ttft_ms_p50"], span["ttft_ms_p99"]
            if p50 is not None:
                lines.append(f"  latency    {name}: first token p50 {p50} ms, p99 {p99} ms")
        lines += [
            f"  compute    {self.compute['tokens']:,} tokens, {self.compute['pf_days']:.3g} petaflop/s-days",
            f"  seconds    {seconds}",
        ]
        for text in self.broken_promises():
            lines.append(f"  BROKEN     {text}")
        return "\n".join([*lines, ""])


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
