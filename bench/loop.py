"""`make bench NAME=loop`: one turn of the ratchet for each taste, and what it promises.

The alternative to a taste is the coin: the same demo with raters who prefer nothing must not promote.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from bench._claims import ROOT, Claim, publish
from demo.report import MAX_FLIP_MS, MAX_ROLLBACK_MS, MAX_TOTAL_SECONDS, MIN_WIN_RATE

TASTES = ("short", "personal", "random")


def main() -> int:
    claims: list[Claim] = []
    for taste in TASTES:
        report = turn(taste)
        claims += random_claims(report) if taste == "random" else taste_claims(taste, report)
    publish("loop", "make bench NAME=loop", claims)
    return 0


def turn(taste: str) -> dict[str, Any]:
    """The demo's report for one taste. Its exit status may be other than zero: the claims say why."""
    env = {**os.environ, "TASTE": taste, "ONCE": "1", "PORT": os.environ.get("PORT", "8017")}
    path = ROOT / "var" / "demo" / "report.json"
    path.unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "demo"], cwd=ROOT, env=env, check=False)
    if not path.exists():
        raise SystemExit(f"the demo with TASTE={taste} wrote no report")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def taste_claims(taste: str, report: dict[str, Any]) -> list[Claim]:
    gate, swap, traffic = report["heldout"], report["swap"], report["traffic"]
    interval = f"[{gate['ci_low']:.3f}, {gate['ci_high']:.3f}], n={gate['n']}"
    total = report["seconds"]["total"]
    return [
        Claim(
            claim=f"{taste}: held-out win rate {interval}",
            value=gate["win_rate"],
            unit="share",
            goal=f">= {MIN_WIN_RATE}, aim 0.78",
            holds=gate["win_rate"] >= MIN_WIN_RATE and gate["ci_low"] > 0.5,
            versus="the champion, 0.5",
        ),
        Claim(
            claim=f"{taste}: one turn",
            value=total,
            unit="s",
            goal=f"<= {MAX_TOTAL_SECONDS}",
            holds=total <= MAX_TOTAL_SECONDS,
        ),
        Claim(
            claim=f"{taste}: failed and mixed of {traffic['requests']} requests during the swaps",
            value=traffic["failed"] + traffic["mixed_version"],
            unit="requests",
            goal="0",
            holds=traffic["failed"] + traffic["mixed_version"] == 0,
        ),
        _within(f"{taste}: flip", swap["flip_ms"], MAX_FLIP_MS),
        _within(f"{taste}: rollback", swap["rollback_ms"], MAX_ROLLBACK_MS),
    ]


def random_claims(report: dict[str, Any]) -> list[Claim]:
    return [
        Claim(
            claim="random: verdict on coin tosses, champion untouched",
            value=report["verdict"],
            unit="",
            goal="reject or insufficient",
            holds=report["verdict"] in ("reject", "insufficient") and report["champion_untouched"] is True,
        )
    ]


def _within(claim: str, value: float | None, limit: float) -> Claim:
    return Claim(
        claim=claim,
        value=value,
        unit="ms",
        goal=f"<= {limit:.0f}",
        holds=value is not None and value <= limit,
    )


if __name__ == "__main__":
    sys.exit(main())
