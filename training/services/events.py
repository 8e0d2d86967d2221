"""What a child tells in events.jsonl becomes rows and numbers of its run, each line once."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from training.models import Run, RunEvent
from training.services import rundir
from training.services.leases import update_held

CHUNK_BYTES = 1_000_000  # taken over in one tick; the rest comes with the next
_LATEST = ("tokens_per_second", "seconds_left")


def take_over_events(run: Run) -> bool:
    """Store the lines that are new and bring the run's numbers up to date. The run must be claimed.

    True when something was new. A line's place in the file is its number, so that the same line twice is one
    row. Nothing is stored for whoever lost the claim.
    """
    data = rundir.read_events(run, run.events_offset, CHUNK_BYTES)
    if not data:
        return False
    rows, offset = [], run.events_offset
    for line in data.splitlines(keepends=True):
        facts = rundir.facts_of(line)
        if facts is not None:
            name = str(facts.pop("event"))[:20]
            rows.append(RunEvent(run=run, sequence=offset, name=name, data=facts))
        offset += len(line)
    values: dict[str, Any] = {"events_offset": offset, **_numbers(run, rows)}
    with transaction.atomic():
        if not update_held(run, **values):
            return False
        RunEvent.objects.bulk_create(rows, ignore_conflicts=True)
    return True


def _numbers(run: Run, rows: list[RunEvent]) -> dict[str, Any]:
    """step, total_steps, metrics and compute as they stand after these events."""
    step, total = run.step, run.total_steps
    metrics, compute = dict(run.metrics), dict(run.compute)
    for row in rows:
        facts = row.data
        step, total = _count(facts.get("step"), step), _count(facts.get("total"), total)
        if isinstance(facts.get("metrics"), dict):
            metrics |= facts["metrics"]
        metrics |= {name: facts[name] for name in _LATEST if name in facts}
        if isinstance(facts.get("tokens"), dict):
            compute["tokens"] = facts["tokens"]
        if isinstance(facts.get("compute"), dict):
            compute = facts["compute"]
    return {"step": step, "total_steps": total, "metrics": metrics, "compute": compute}


def _count(value: Any, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value < 2**31 else otherwise
