"""Judgements to a dataset: an immutable, digested snapshot in the columns that a recipe reads.

The same filters and the same cut-off give the same files, byte for byte, on every database: judgements are
read as they stood at the cut-off, in the order of their prompts and ids, and nothing in the files depends on
when or where they were written. Memory does not grow with the rows, but for eight bytes' worth of key each.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from inference.artifact import write_manifest
from projects.errors import Conflict, Invalid
from projects.ids import uuid7
from projects.models import Project
from projects.services import Actor, record_audit
from training.models import Dataset, Erasure
from training.services.data.index import IdCollector
from training.services.data.rows import Choice, Pass, Watch, survey
from training.services.data.shards import PartWriter, row_json
from training.services.data.tally import Tally
from training.services.filters import DatasetFilters, parse_filters
from training.services.numbers import create_numbered


class EmptyDataset(Invalid):
    """Nothing that was judged makes a row."""

    code = "empty_dataset"


class ErasedMeanwhile(Conflict):
    """A person was erased while their judgements were being read."""

    code = "erased_meanwhile"


@dataclass(frozen=True)
class Preview:
    """What compiling would give, without a file or a row being written."""

    format: str
    filters: dict[str, Any]
    cutoff: datetime
    rows: int
    heldout_rows: int
    counts: dict[str, int]
    drops: dict[str, int]
    lengths: dict[str, Any]
    balance: dict[str, float | int | None]
    gate_overlap: dict[str, int]
    examples: list[dict[str, Any]]


def compile_dataset(
    *,
    project: Project,
    format: str = Dataset.Format.PREFERENCE,  # noqa: A002 - the word of the API and of the model
    filters: dict[str, Any] | None = None,
    cutoff: datetime | None = None,
    actor: Actor,
    watch: Watch | None = None,
) -> Dataset:
    """Compile, write and register a dataset.

    Raises Invalid (filters, cut-off), EmptyDataset, ErasedMeanwhile, and Stopped where `watch` does.
    """
    check_format(format)
    chosen, moment, began = parse_filters(filters, format), check_cutoff(cutoff), timezone.now()
    path = f"datasets/{uuid7()}"
    folder = Path(settings.ARTIFACTS_DIR) / path
    try:
        tally = _write(folder, project, format, chosen, moment, watch)
        facts = summary(tally)
        manifest = write_manifest(
            folder,
            kind="dataset",
            project=project.slug,
            format=format,
            filters=chosen.to_json(),
            cutoff=moment.isoformat(),
            erasures=_erasures(project),
            **facts,
        )
        dataset = create_numbered(
            Dataset,
            project=project,
            format=format,
            filters=chosen.to_json(),
            cutoff=moment,
            rows=tally.train,
            heldout_rows=tally.heldout,
            drops=facts["drops"],
            digest=manifest["digest"],
            path=path,
            manifest=manifest,
        )
        try:
            check_nobody_was_erased(project, began)
        except ErasedMeanwhile:
            dataset.delete()
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # no row points at it
        raise
    record_audit(
        project=project,
        actor=actor,
        action="dataset.compiled",
        subject=f"dataset:{dataset.number}",
        detail={"format": format, "digest": dataset.digest, "counts": facts["counts"]},
    )
    return dataset


def check_nobody_was_erased(project: Project, since: datetime) -> None:
    """Raises ErasedMeanwhile: what was read may hold somebody who is being erased, or was since.

    Called when a row says what was read: an erasure that begins after this finds that row.
    """
    at_work = Q(status__in=Erasure.ACTIVE) | Q(finished__gte=since)
    if Erasure.objects.filter(at_work, project=project).exists():
        raise ErasedMeanwhile("A person was erased while this was compiled. Compile it again.")


def _erasures(project: Project) -> dict[str, int]:
    """How many people were erased so far, and the judgements that are gone with them: no row counts these."""
    done = list(Erasure.objects.filter(project=project, status=Erasure.Status.DONE))
    return {"people": len(done), "judgements": sum(one.removed for one in done)}


def discard_dataset(dataset: Dataset) -> None:
    """Take back a dataset that was compiled a moment ago and that nothing uses. Its number stays unused."""
    dataset.delete()
    shutil.rmtree(dataset.folder, ignore_errors=True)


def preview_dataset(
    *,
    project: Project,
    format: str = Dataset.Format.PREFERENCE,  # noqa: A002
    filters: dict[str, Any] | None = None,
    cutoff: datetime | None = None,
    watch: Watch | None = None,
) -> Preview:
    """What compile_dataset would give. Raises Invalid as it does; to be empty is no error here."""
    check_format(format)
    chosen, moment = parse_filters(filters, format), check_cutoff(cutoff)
    tally, _ = survey(project, format, chosen, moment, watch)
    return Preview(
        format=format,
        filters=chosen.to_json(),
        cutoff=moment,
        rows=tally.train,
        heldout_rows=tally.heldout,
        **summary(tally),
        examples=[row_json(format, row) for row in tally.examples()],
    )


def check_cutoff(cutoff: datetime | None) -> datetime:
    """The moment as of which judgements are read: now, or one in the past. Raises Invalid for the future."""
    now = timezone.now()
    if cutoff is None:
        return now
    if cutoff > now:
        raise Invalid(
            "The cut-off lies in the future, where judgements can still change. Leave it out for now.",
            param="cutoff",
            code="cutoff_in_future",
        )
    return cutoff


def summary(tally: Tally) -> dict[str, Any]:
    """The numbers that a manifest keeps: no text of anybody's."""
    return {
        "counts": tally.counts(),
        "drops": tally.drops_json(),
        "lengths": tally.lengths_json(),
        "balance": tally.balance(),
        "gate_overlap": tally.gate_overlap(),
    }


def _write(
    folder: Path,
    project: Project,
    format_: str,
    filters: DatasetFilters,
    cutoff: datetime,
    watch: Watch | None,
) -> Tally:
    """Both parts in one pass; in another where only a first one can know the rest. Raises EmptyDataset.

    How much of the older rows is replayed needs the number of new ones, and a small dataset of which no
    prompt falls to the held-out side gives up one.
    """
    choice = survey(project, format_, filters, cutoff, watch)[1] if filters.replay_share else Choice()
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        done, ids = Pass(project, format_, filters, cutoff, choice, watch), IdCollector()
        with (
            closing(PartWriter(folder, "train", format_)) as train,
            closing(PartWriter(folder, "heldout", format_)) as heldout,
            closing(done.rows()) as rows,
        ):
            for row, is_heldout in rows:
                (heldout if is_heldout else train).add(row)
                ids.add_row(row)
        following = done.next_choice()
        if following is None:
            break
        choice = following
    if not done.tally.train:
        raise EmptyDataset(_why_empty(format_, done.tally))
    ids.write(folder)
    return done.tally


def _why_empty(format_: str, tally: Tally) -> str:
    dropped = ", ".join(f"{n} {reason}" for reason, n in tally.drops_json().items()) or "nothing"
    if format_ == Dataset.Format.PROMPTS:
        return f"There is no training prompt. Left out: {dropped}. Import prompts."
    if format_ == Dataset.Format.TEXT:
        return f"There is no text. Left out: {dropped}. Import documents, or take the prompts' own words."
    what = {
        Dataset.Format.PREFERENCE: "training pair",
        Dataset.Format.SFT: "demonstration",
        Dataset.Format.UNPAIRED: "labelled answer",
    }[Dataset.Format(format_)]
    mend = {
        Dataset.Format.PREFERENCE: "preferences or corrections",
        Dataset.Format.SFT: "corrections (or take good answers, too)",
        Dataset.Format.UNPAIRED: "thumbs",
    }[Dataset.Format(format_)]
    said = f"No judgement makes a {what} yet. Left out: {dropped}."
    return f"{said} Collect {mend} on prompts of the training split."


def check_format(format_: str) -> None:
    """Raises Invalid for one that there is not."""
    if format_ not in Dataset.Format.values:
        raise Invalid(
            f"There is no format {format_}. There are: {', '.join(Dataset.Format.values)}.", param="format"
        )
