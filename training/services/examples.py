"""Datasets that are gathered for one run, to be judged and not learned from: answers, and examples.

They have the columns that training/recipes/columns.py states, a manifest and a digest, as compiled ones have.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings
from django.utils import timezone

from inference.artifact import write_manifest
from inference.models import Completion
from projects.ids import uuid7
from projects.models import Project
from projects.services import Actor, record_audit
from training.models import Dataset
from training.services.compiler import EmptyDataset
from training.services.data.index import IdCollector
from training.services.numbers import create_numbered

MOST_ANSWERS = 20_000  # the newest; a program that wants others gathers them itself
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCHEMAS = {
    "train": pa.schema(
        [("id", pa.string()), ("prompt", _MESSAGES), ("completion", _MESSAGES), ("ended", pa.bool_())]
    ),
    "text": pa.schema([("id", pa.string()), ("text", pa.string())]),
    "pairs": pa.schema(
        [
            ("id", pa.string()),
            ("prompt", _MESSAGES),
            ("chosen", _MESSAGES),
            ("rejected", _MESSAGES),
            ("chosen_ended", pa.bool_()),
            ("rejected_ended", pa.bool_()),
        ]
    ),
    "answers": pa.schema(
        [
            ("id", pa.string()),
            ("prompt", _MESSAGES),
            ("candidate", _MESSAGES),
            ("champion", _MESSAGES),
            ("candidate_ended", pa.bool_()),
            ("champion_ended", pa.bool_()),
        ]
    ),
}


def gather(format_: str, *, project: Project, actor: Actor) -> Dataset:
    """What a run judges when nobody said what. Raises EmptyDataset."""
    if format_ == Dataset.Gathered.COMPLETIONS:
        return gather_completions(project=project, actor=actor)
    newest = (
        Dataset.objects.filter(
            project=project,
            format=Dataset.Format.PREFERENCE,
            status=Dataset.Status.READY,
            heldout_rows__gt=0,
        )
        .order_by("-number")
        .first()
    )
    if newest is None:
        raise EmptyDataset("There are no held-out pairs to evaluate on. Compile a preference dataset first.")
    return gather_examples(project=project, pairs=heldout_pairs(newest), actor=actor)


def gather_completions(
    *, project: Project, completions: Iterable[Completion] | None = None, actor: Actor
) -> Dataset:
    """Answers to be scored: these, or the newest whole ones of the project. Raises EmptyDataset."""
    if completions is None:
        completions = (
            Completion.objects.filter(project=project, state__in=Completion.JUDGEABLE, quarantined=False)
            .exclude(text="")
            .select_related("prompt")
            .order_by("-created")[:MOST_ANSWERS]
        )
    rows = [
        {
            "id": str(completion.id),
            "prompt": _plain(completion.prompt.messages),
            "completion": _answer(completion),
            "ended": _ended(completion),
            "sources": [str(completion.id), str(completion.prompt_id)],
        }
        for completion in completions
        if completion.text.strip()
    ]
    rows.sort(key=lambda row: str(row["id"]))
    return _register(project, Dataset.Gathered.COMPLETIONS, {"train": rows}, actor)


def gather_examples(
    *,
    project: Project,
    texts: Mapping[str, str] | None = None,
    pairs: Iterable[Mapping[str, Any]] = (),
    answers: Iterable[tuple[Completion, Completion]] = (),
    actor: Actor,
) -> Dataset:
    """Examples to evaluate on: texts by id, pairs as rows, answers of (candidate, champion) to one prompt.

    The id of paired answers is their prompt's. Raises EmptyDataset.
    """
    parts = {
        "text": [{"id": id_, "text": text} for id_, text in sorted((texts or {}).items())],
        "pairs": [dict(row) for row in pairs],
        "answers": [
            {
                "id": str(one.prompt_id),
                "prompt": _plain(one.prompt.messages),
                "candidate": _answer(one),
                "champion": _answer(other),
                "candidate_ended": _ended(one),
                "champion_ended": _ended(other),
                "sources": [str(one.prompt_id), str(one.id), str(other.id)],
            }
            for one, other in answers
        ],
    }
    return _register(project, Dataset.Gathered.EXAMPLES, parts, actor)


def heldout_pairs(dataset: Dataset) -> list[dict[str, Any]]:
    """The held-out pairs of a preference dataset, each with an id of its own."""
    columns = [*(name for name in _SCHEMAS["pairs"].names if name != "id"), "prompt_id", "feedback_ids"]
    rows: list[dict[str, Any]] = []
    for shard in sorted(dataset.folder.glob("heldout-*.parquet")):
        rows += pq.read_table(shard, columns=columns).to_pylist()
    return [
        {
            "id": f"{dataset.number}-{number:06}",
            "sources": [row["prompt_id"]],
            "feedback": row["feedback_ids"],
            **row,
        }
        for number, row in enumerate(rows)
    ]


def _register(
    project: Project, format_: str, parts: dict[str, list[dict[str, Any]]], actor: Actor
) -> Dataset:
    """`sources` and `feedback` of a row are the ids that its texts come from; its columns take the rest."""
    count = sum(map(len, parts.values()))
    if not count:
        raise EmptyDataset("There is nothing to judge: no answer that could be read.")
    path = f"datasets/{uuid7()}"
    folder = Path(settings.ARTIFACTS_DIR) / path
    cutoff = timezone.now()
    counts = {part: len(rows) for part, rows in parts.items()}
    try:
        folder.mkdir(parents=True)
        for part, rows in parts.items():
            if rows:
                table = pa.Table.from_pylist(rows, schema=_SCHEMAS[part])
                pq.write_table(table, folder / f"{part}-00000.parquet")
        ids = IdCollector()
        for row in chain.from_iterable(parts.values()):
            ids.add(feedback=row.get("feedback", ()), sources=row.get("sources", ()))
        ids.write(folder)
        manifest = write_manifest(
            folder,
            kind="dataset",
            project=project.slug,
            format=format_,
            cutoff=cutoff.isoformat(),
            counts=counts,
        )
        dataset = create_numbered(
            Dataset,
            project=project,
            format=format_,
            cutoff=cutoff,
            rows=count,
            digest=manifest["digest"],
            path=path,
            manifest=manifest,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    record_audit(
        project=project,
        actor=actor,
        action="dataset.gathered",
        subject=f"dataset:{dataset.number}",
        detail={"format": format_, "digest": dataset.digest, "counts": counts},
    )
    return dataset


def _plain(messages: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{"role": str(one["role"]), "content": str(one["content"])} for one in messages]


def _answer(completion: Completion) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": completion.text}]


def _ended(completion: Completion) -> bool:
    """Whether the model ended its answer itself; `length` and a stop by a reader cut it."""
    return completion.state == Completion.State.FINISHED and completion.finish_reason == "stop"
