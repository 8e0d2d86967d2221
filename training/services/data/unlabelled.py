"""What nobody judged: prompts to roll out, and plain text to go on pretraining with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from inference.models import Prompt
from projects.models import Project
from training.models import Document
from training.services.data.group import Answer, Row
from training.services.data.raters import as_text
from training.services.data.sameness import digest, joined
from training.services.data.source import FETCH, hyphenated, reading
from training.services.filters import DatasetFilters


def read_prompts(
    project: Project, filters: DatasetFilters, cutoff: datetime, drops: Counter[str]
) -> Iterator[Row]:
    """Every training prompt that there was at the cut-off, judged or not, in the order of ids."""
    rows = Prompt.objects.filter(project=project, created__lte=cutoff)
    if filters.since is not None:
        rows = rows.filter(created__gte=filters.since)
    wanted = set(filters.tags)
    fields = rows.order_by("id").values_list(as_text("id"), "messages", "split", "tags", "erased")
    with reading():
        for id_, messages, split, tags, erased in fields.iterator(chunk_size=FETCH):
            if erased is not None:
                drops["erased"] += 1
                continue
            if wanted and not wanted.intersection(tags):
                continue
            if split in Prompt.HELD_OUT:
                drops["gate"] += 1
                continue
            said = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
            yield Row(hyphenated(id_), messages, (), [], joined(digest(said)))


def read_texts(
    project: Project, filters: DatasetFilters, cutoff: datetime, drops: Counter[str]
) -> Iterator[Row]:
    """Documents, and where asked for the users' own words in training prompts."""
    if "documents" in filters.texts:
        yield from _documents(project, filters, cutoff)
    if "prompts" in filters.texts:
        for row in read_prompts(project, filters, cutoff, drops):
            text = "\n\n".join(message["content"] for message in row.messages if message["role"] == "user")
            yield Row(row.prompt_id, [], (Answer(text),), [], joined(digest(text)))


def _documents(project: Project, filters: DatasetFilters, cutoff: datetime) -> Iterator[Row]:
    rows = Document.objects.filter(project=project, created__lte=cutoff)
    if filters.since is not None:
        rows = rows.filter(created__gte=filters.since)
    wanted = set(filters.tags)
    with reading():
        fields = rows.order_by("id").values_list(as_text("id"), "text", "tags")
        for id_, text, tags in fields.iterator(chunk_size=500):
            if not wanted or wanted.intersection(tags):
                yield Row("", [], (Answer(text),), [], joined(digest(text)), document_id=hyphenated(id_))
