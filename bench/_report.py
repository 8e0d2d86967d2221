"""`python -m bench._report`: docs/benchmarks.md from what the benches left in var/bench."""

from __future__ import annotations

import json
import sys
from typing import Any

from bench._claims import ROOT

HEAD = """# Benchmarks

Each table is what one command printed, with the alternative measured in the same run. A goal that was not
reached stays in its table. This file is written by `make bench`; do not edit it.
"""


def main() -> int:
    parts = [HEAD]
    for path in sorted((ROOT / "var" / "bench").glob("*.json")):
        claims: list[dict[str, Any]] = json.loads(path.read_text())
        if claims:
            parts.append(section(path.stem, claims))
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(parts))
    return 0


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
