"""Judgements to a dataset: an immutable, digested snapshot in the columns that a recipe reads.

The same filters and the same cut-off give the same files, byte for byte: judgements are read as they stood at
the cut-off, in the order of their ids, and nothing in the files depends on when or where they were written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from feedback.models import Correction, Preference
from inference.artifact import write_manifest
from inference.models import Completion, Prompt
from inference.services.prompts import hash_share
from projects.errors import Invalid
from projects.ids import uuid7
from projects.models import Project
from projects.services import Actor, record_audit
from training.models import Dataset
from training.services.filters import DatasetFilters, parse_filters
from training.services.numbers import create_numbered
from training.services.pairs import Answer, Judgement, Pair, Pairs, make_pairs

HELDOUT_SHARE = 0.1
# From so many prompts on, at least one is held out.
HELDOUT_FROM_PROMPTS = 10
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("chosen_ended", pa.bool_()),
        ("rejected_ended", pa.bool_()),
        ("prompt_id", pa.string()),
        ("feedback_ids", pa.list_(pa.string())),
    ]
)


class EmptyDataset(Invalid):
    """Nothing that was judged makes a row."""

    code = "empty_dataset"


@dataclass(frozen=True)
class Preview:
    """What compiling would give: the counts, without a file or a row being written."""

    format: str
    filters: dict[str, Any]
    cutoff: datetime
    rows: int
    heldout_rows: int
    counts: dict[str, int]
    drops: dict[str, int]


def compile_dataset(
    *,
    project: Project,
    format: str = Dataset.Format.PREFERENCE,  # noqa: A002 - the word of the API and of the model
    filters: dict[str, Any] | None = None,
    cutoff: datetime | None = None,
    actor: Actor,
) -> Dataset:
    """Compile, write and register a dataset. Raises Invalid (filters, cut-off), EmptyDataset."""
    chosen, moment = parse_filters(filters), check_cutoff(cutoff)
    _check_format(format)
    pairs = collect_pairs(project, chosen, moment)
    train, heldout = _split(pairs.rows)
    if not train:
        raise EmptyDataset(
            "No judgement makes a training pair yet. Left out: "
            + (", ".join(f"{n} {reason}" for reason, n in sorted(pairs.drops.items())) or "nothing")
            + ". Collect preferences or corrections on prompts of the training split."
        )
    counts = _counts(pairs, train, heldout)
    path = f"datasets/{uuid7()}"
    folder = Path(settings.ARTIFACTS_DIR) / path
    folder.mkdir(parents=True)
    try:
        _write_shard(folder / "train-00000.parquet", train)
        _write_shard(folder / "heldout-00000.parquet", heldout)
        manifest = write_manifest(
            folder,
            kind="dataset",
            project=project.slug,
            format=format,
            filters=chosen.to_json(),
            cutoff=moment.isoformat(),
            counts=counts,
            drops=dict(pairs.drops),
        )
        dataset = create_numbered(
            Dataset,
            project=project,
            format=format,
            filters=chosen.to_json(),
            cutoff=moment,
            rows=len(train),
            heldout_rows=len(heldout),
            drops=dict(pairs.drops),
            digest=manifest["digest"],
            path=path,
            manifest=manifest,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # no row points at it
        raise
    record_audit(
        project=project,
        actor=actor,
        action="dataset.compiled",
        subject=f"dataset:{dataset.number}",
        detail={"digest": dataset.digest, "counts": counts},
    )
    return dataset


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
) -> Preview:
    """The counts that compile_dataset would give. Raises Invalid as it does; to be empty is no error here."""
    chosen, moment = parse_filters(filters), check_cutoff(cutoff)
    _check_format(format)
    pairs = collect_pairs(project, chosen, moment)
    train, heldout = _split(pairs.rows)
    return Preview(
        format=format,
        filters=chosen.to_json(),
        cutoff=moment,
        rows=len(train),
        heldout_rows=len(heldout),
        counts=_counts(pairs, train, heldout),
        drops=dict(pairs.drops),
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


def collect_pairs(project: Project, filters: DatasetFilters, cutoff: datetime) -> Pairs:
    """All pairs and drops of the project's judgements as they stood at `cutoff`."""
    judgements: list[Judgement] = []
    if "preference" in filters.kinds:
        judgements += _preferences(project, filters, cutoff)
    if "correction" in filters.kinds:
        judgements += _corrections(project, filters, cutoff)
    judgements.sort(key=lambda judgement: judgement.id)
    if filters.tags:
        tagged = _prompts_with_tags(project, filters.tags)
        judgements = [judgement for judgement in judgements if judgement.prompt_id in tagged]
    heldout = _heldout_prompts(project, judgements)
    judgements = [replace(judgement, is_heldout=judgement.prompt_id in heldout) for judgement in judgements]
    return make_pairs(judgements, per_rater_cap=filters.per_rater_cap, per_prompt_cap=filters.per_prompt_cap)


def _preferences(project: Project, filters: DatasetFilters, cutoff: datetime) -> Iterator[Judgement]:
    rows = _as_of(Preference.objects.filter(project=project), filters, cutoff)
    for row in rows.select_related("prompt").prefetch_related("candidates__completion"):
        yield Judgement(
            id=row.id,
            judge=row.judge,
            prompt_id=row.prompt_id,
            messages=row.prompt.messages,
            is_gate=row.prompt.split == Prompt.Split.GATE,
            is_heldout=False,
            answers=tuple(
                _answer(candidate.completion, None if row.all_bad else candidate.rank)
                for candidate in row.candidates.all()
            ),
            all_bad=row.all_bad,
        )


def _corrections(project: Project, filters: DatasetFilters, cutoff: datetime) -> Iterator[Judgement]:
    """A correction is chosen over the answer that it corrects."""
    rows = _as_of(Correction.objects.filter(project=project), filters, cutoff)
    for row in rows.select_related("completion__prompt"):
        prompt = row.completion.prompt
        yield Judgement(
            id=row.id,
            judge=row.judge,
            prompt_id=prompt.id,
            messages=prompt.messages,
            is_gate=prompt.split == Prompt.Split.GATE,
            is_heldout=False,
            answers=(Answer(text=row.text, rank=1), _answer(row.completion, 2)),
        )


def _as_of(rows: QuerySet[Any], filters: DatasetFilters, cutoff: datetime) -> QuerySet[Any]:
    rows = rows.before(cutoff).filter(source__in=filters.sources)  # type: ignore[attr-defined]
    if filters.since is not None:
        rows = rows.filter(created__gte=filters.since)
    return rows.order_by("id")


def _answer(completion: Completion, rank: int | None) -> Answer:
    return Answer(
        text=completion.text,
        rank=rank,
        state=completion.state,
        finish_reason=completion.finish_reason,
        quarantined=completion.quarantined,
    )


def _prompts_with_tags(project: Project, tags: list[str]) -> set[UUID]:
    # Tags are a JSON list, which SQLite cannot search: read them.
    wanted = set(tags)
    rows = Prompt.objects.filter(project=project).exclude(tags=[]).values_list("id", "tags")
    return {id_ for id_, has in rows.iterator() if wanted & set(has)}


def _heldout_prompts(project: Project, judgements: list[Judgement]) -> set[UUID]:
    """The training prompts whose pairs are kept back to measure the model, by a hash of their first words.

    The hash is over the first user message, as for the split: a conversation stays on one side.
    """
    keys = {
        judgement.prompt_id: _heldout_key(project, judgement.messages)
        for judgement in judgements
        if not judgement.is_gate
    }
    heldout = {prompt_id for prompt_id, key in keys.items() if key < HELDOUT_SHARE}
    if not heldout and len(keys) >= HELDOUT_FROM_PROMPTS:
        least = min(keys.values())
        heldout = {prompt_id for prompt_id, key in keys.items() if key == least}
    return heldout


def _heldout_key(project: Project, messages: list[dict[str, str]]) -> float:
    """In [0, 1), fixed for a prompt; another salt than the split's, so that the two are independent."""
    first = next((m["content"] for m in messages if m["role"] == "user"), "")
    return hash_share(f"heldout:{project.salt}", first)


def _split(rows: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs."""
    return [row for row in rows if not row.is_heldout], [row for row in rows if row.is_heldout]


def _counts(pairs: Pairs, train: list[Pair], heldout: list[Pair]) -> dict[str, int]:
    return {
        "judgements": pairs.judgements,
        "judges": len(pairs.judges),
        "used": len({id_ for row in pairs.rows for id_ in row.feedback_ids}),
        "train": len(train),
        "heldout": len(heldout),
        "train_prompts": len({row.prompt_id for row in train}),
        "heldout_prompts": len({row.prompt_id for row in heldout}),
    }


def _write_shard(path: Path, rows: list[Pair]) -> None:
    """One Parquet file; every option that shapes its bytes is written out."""
    table = pa.Table.from_pylist([row.to_row() for row in rows], schema=SCHEMA)
    pq.write_table(
        table, path, version="2.6", compression="zstd", compression_level=3, row_group_size=8192,
        use_dictionary=True, write_statistics=True, data_page_version="1.0",
    )  # fmt: skip


def _check_format(format_: str) -> None:
    if format_ not in Dataset.Format.values:
        raise Invalid(
            f"There is no format {format_}. There are: {', '.join(Dataset.Format.values)}.", param="format"
        )
