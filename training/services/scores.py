"""What score runs found, brought to where the choice of what to ask reads it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID

import pyarrow.parquet as pq
from django.db import transaction

from feedback.services.uncertainty import store_scores
from inference.artifact import ArtifactError, verify
from projects.services import SYSTEM, record_audit, was_recorded
from training.models import Run

logger = logging.getLogger(__name__)

AT_ONCE = 1_000
IMPORTED = "scores.imported"


def import_scores() -> list[Run]:
    """Store the scores of each finished score run of a reward model, once. Returns the runs it took.

    The oldest first, so that what the newest run said of an answer is what stays. Rows without a score (an
    answer too long) are left out; a run whose files are gone or damaged is noted and not tried again.
    """
    taken = []
    finished = Run.objects.filter(
        method="score", status=Run.Status.FINISHED, reward__isnull=False
    ).select_related("project", "reward")
    for run in finished.order_by("finished"):
        if not _is_imported(run) and _import_run(run):
            taken.append(run)
    return taken


def _is_imported(run: Run) -> bool:
    return was_recorded(project=run.project, action=IMPORTED, subject=f"run:{run.number}")


@transaction.atomic
def _import_run(run: Run) -> bool:
    """False where another worker was faster."""
    assert run.reward is not None  # noqa: S101 - by the query
    Run.objects.select_for_update(of=("self",)).get(pk=run.pk)
    if _is_imported(run):
        return False
    stored, trouble = 0, ""
    try:
        verify(run.folder / "artifact", servable=False)
        for some in _read(run):
            stored += store_scores(reward=run.reward, scores=some)
    except (ArtifactError, OSError) as error:
        trouble = str(error)
        logger.warning("%s: its scores cannot be read: %s", run, trouble)
    record_audit(
        project=run.project,
        actor=SYSTEM,
        action=IMPORTED,
        subject=f"run:{run.number}",
        detail={"answers": stored, "reward": run.reward.label, **({"trouble": trouble} if trouble else {})},
    )
    return True


def _read(run: Run) -> Iterator[dict[UUID, float]]:
    """Completion id -> score, some at a time."""
    file = pq.ParquetFile(run.folder / "artifact" / "rows.parquet")
    for batch in file.iter_batches(batch_size=AT_ONCE, columns=["id", "score"]):
        yield {UUID(row["id"]): row["score"] for row in batch.to_pylist() if row["score"] is not None}
