"""What runs make that train nothing: one row an example, in `artifact/rows.parquet`, and their progress."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from inference.artifact import digest_of, read_manifest, write_manifest
from training.recipes.accounting import Compute
from training.recipes.config import Config
from training.recipes.device import Device
from training.recipes.meter import Meter
from training.recipes.rundir import Run, leave_if_overtaken

BATCHES_A_CHUNK = 8
T = TypeVar("T")


class Watch:
    """Progress of a run over several lists of examples: an event each few batches."""

    def __init__(self, run: Run, compute: Compute, meter: Meter, config: Config, total: int) -> None:
        self._run = run
        self._compute = compute
        self._meter = meter
        self._size = config.batch_size
        self._done, self._total = 0, total
        self._began = time.monotonic()
        run.emit("started", step=0, total=total)

    def chunks(self, examples: list[T]) -> Iterator[list[T]]:
        """The examples, some at a time; what was done is told when the next ones are asked for."""
        each = self._size * BATCHES_A_CHUNK
        for start in range(0, len(examples), each):
            some = examples[start : start + each]
            yield some
            self._done += len(some)
            self._meter.flush(together=False)
            seconds = time.monotonic() - self._began
            tokens = sum(self._compute.tokens.values())
            self._run.emit(
                "progress",
                step=self._done,
                total=self._total,
                metrics={},
                tokens=self._compute.tokens,
                tokens_per_second=round(tokens / seconds, 1),
                seconds_left=round(seconds / self._done * (self._total - self._done), 1),
            )


def publish_rows(
    run: Run,
    config: Config,
    device: Device,
    compute: Compute,
    rows: list[dict[str, Any]],
    schema: pa.Schema,
    metrics: dict[str, float],
) -> None:
    """Write `artifact/` of kind rows, and the last event."""
    costs = compute.facts(device.peak_memory())
    partial = run.folder / "artifact.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial / "rows.parquet")
    write_manifest(
        partial,
        kind="rows",
        method=run.spec.method,
        run=run.spec.run,
        run_id=run.spec.id,
        base=run.spec.base_digest,
        dataset=run.spec.dataset_digest,
        versions={role: given.digest for role, given in run.spec.versions.items()},
        config=config.to_dict(),
        config_digest=digest_of(config.to_dict()),
        rows=len(rows),
        metrics=metrics,
        compute=costs,
    )
    leave_if_overtaken(run.folder)
    shutil.rmtree(run.artifact, ignore_errors=True)
    partial.rename(run.artifact)
    run.emit(
        "finished",
        step=len(rows),
        total=len(rows),
        metrics=metrics,
        tokens=costs["tokens"],
        compute=costs,
        digest=read_manifest(run.artifact)["digest"],
    )
