"""`python -m bench._report`: what the benches left in var/bench, written into docs/benchmarks.md.

The sections of benches that did not run here stay as they are: each says its own commit and machine.
Trials, such as queue-quick and gpu-tiny, get none.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from bench._claims import ROOT

TRIALS = ("-quick", "-tiny")
HEAD = """# Benchmarks

Each table is what one command printed, with the alternative measured in the same run. A goal that was not
reached stays in its table. This file is written by `make bench`; do not edit it.
"""


def main() -> int:
    page = ROOT / "docs" / "benchmarks.md"
    sections = standing(page.read_text())
    for path in (ROOT / "var" / "bench").glob("*.json"):
        if path.stem.endswith(TRIALS):
            continue
        claims: list[dict[str, Any]] = json.loads(path.read_text())
        if claims:
            sections[path.stem] = section(path.stem, claims)
    page.write_text("\n".join([HEAD, *(sections[name] for name in sorted(sections))]))
    return 0


def standing(page: str) -> dict[str, str]:
    """The sections that the page has now, by bench."""
    parts = re.split(r"^## (.+)\n", page, flags=re.MULTILINE)[1:]
    return {name: f"## {name}\n{body.rstrip()}\n" for name, body in zip(parts[::2], parts[1::2], strict=True)}


def section(name: str, claims: list[dict[str, Any]]) -> str:
    first = claims[0]
    lines = [
        f"## {name}",
        "",
        f"`{first['command']}` on {first['machine']}, commit {first['commit']}.",
        "",
        "| claim | value | goal | holds | versus |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        value = claim["value"]
        shown = f"{value:,.4g}" if isinstance(value, float) else "none" if value is None else str(value)
        cells = [claim["claim"], f"{shown} {claim['unit']}".strip(), claim["goal"]]
        cells += ["yes" if claim["holds"] else "**no**", claim["versus"]]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
