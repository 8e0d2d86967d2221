"""Prompts from files: lines of JSON or rows of CSV become drafts, and every wrong one is named by its line.

Memory stays constant whatever the size of the file. A wrong line costs that line alone.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any

from django.conf import settings

from feedback.api.bodies import PromptLine
from inference.services.prompt_imports import Draft, record_prompts
from inference.services.prompts import AUDIT_TAG
from projects.bodies import parse_body, parse_json
from projects.errors import Forbidden, Invalid, Malformed, Problem
from projects.models import Project

LINES_A_TRANSACTION = 500
ERRORS_SHOWN = 100
COLUMNS = ("prompt", "system", "messages", "external_id", "tags")
# A place in a file and what stands there, or what is wrong with it.
Entry = tuple[int, Draft | Problem]


class PromptImport:
    """Counts of what became of the lines. Only the first errors are kept."""

    def __init__(self, project: Project, *, may_audit: bool) -> None:
        self.project = project
        self.may_audit = may_audit  # whether lines tagged so may become the gate's audit prompts
        self.created = self.existing = self.failed = 0
        self.errors: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        return self.created + self.existing + self.failed

    def run(self, entries: Iterable[Entry]) -> Iterator[int]:
        """Take all; yields how many there were, after each transaction."""
        waiting = iter(entries)
        while chunk := list(islice(waiting, LINES_A_TRANSACTION)):
            self._take(chunk)
            yield self.total

    def _take(self, chunk: list[Entry]) -> None:
        chunk = [(place, self._allowed(entry)) for place, entry in chunk]
        drafts = [entry for _, entry in chunk if isinstance(entry, Draft)]
        results = iter(record_prompts(project=self.project, drafts=drafts))
        for place, entry in chunk:
            result = next(results) if isinstance(entry, Draft) else entry
            if isinstance(result, Problem):
                self.failed += 1
                if len(self.errors) < ERRORS_SHOWN:
                    self.errors.append({"line": place, "code": result.code, "message": result.message})
            else:
                self.created += result
                self.existing += not result

    def _allowed(self, entry: Draft | Problem) -> Draft | Problem:
        if isinstance(entry, Problem) or self.may_audit or AUDIT_TAG not in entry.tags:
            return entry
        return Forbidden(
            f"The tag {AUDIT_TAG} makes a prompt of the gate's audit, for which a key needs the scope manage."
        )


def from_lines(lines: Iterable[bytes | None]) -> Iterator[Entry]:
    """A JSON object a line; empty lines are left out. None is a line that was too long."""
    for place, line in enumerate(lines, start=1):
        if line == b"":
            continue
        try:
            if line is None:
                raise Invalid("The line is too long.", code="line_too_long")
            yield place, _draft(parse_json(line, "line"))
        except Problem as problem:
            yield place, problem


def from_csv(file: IO[bytes]) -> Iterator[Entry]:
    """A prompt a row, under a header with `prompt` (and `system`?) or `messages` as JSON.

    `external_id` and `tags` (with | between them) may stand beside. Raises Invalid for another header.
    """
    csv.field_size_limit(settings.MAX_BODY_BYTES)
    # Bytes that are no UTF-8 become half characters, so that only their own row is refused.
    text = (line.decode("utf-8", "surrogateescape") for line in file)
    rows = csv.reader(_without_mark(text), strict=True)
    header = [name.strip().lower() for name in next(rows, [])]
    unknown = sorted(set(header) - set(COLUMNS))
    if unknown or ("prompt" in header) == ("messages" in header) or len(set(header)) != len(header):
        raise Invalid(
            f"The first row must name columns, each once: prompt or messages, out of {', '.join(COLUMNS)}.",
            code="csv_header",
        )
    while True:
        place = rows.line_num + 1
        try:
            row = next(rows, None)
            if row is None:
                return
            if row:
                yield place, _draft(_as_line(header, row))
        except csv.Error as error:
            yield place, Malformed(f"The row is not CSV: {error}.")
        except Problem as problem:
            yield place, problem


def _as_line(header: list[str], row: list[str]) -> Any:
    """The row as a line of JSON would say it."""
    if len(row) != len(header):
        raise Malformed(f"The row has {len(row)} fields, the header {len(header)}.")
    if any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
        raise Malformed("The row is not UTF-8.")
    if any("\x00" in cell for cell in row):
        raise Malformed("The row holds NUL.", code="invalid_text")
    cells = dict(zip(header, row, strict=True))
    line: dict[str, Any] = {}
    if "messages" in cells:
        line["messages"] = parse_json(cells["messages"].encode(), "column messages")
    elif not cells["prompt"].strip():
        raise Invalid("The prompt is empty.", code="empty_message")
    else:
        said = [("system", cells.get("system", "")), ("user", cells["prompt"])]
        line["messages"] = [{"role": role, "content": text} for role, text in said if text]
    if cells.get("external_id"):
        line["external_id"] = cells["external_id"]
    if cells.get("tags"):
        line["tags"] = [tag.strip() for tag in cells["tags"].split("|")]
    return line


def _draft(value: Any) -> Draft:
    if isinstance(value, dict) and "prompt" in value and "messages" not in value:  # as other tools write it
        raise Invalid(
            'Write "messages": [{"role": "user", "content": "..."}] in place of "prompt".', param="prompt"
        )
    body = parse_body(PromptLine, value)
    messages = [{"role": one.role, "content": one.content} for one in body.messages]
    return Draft(messages, body.external_id, body.tags)


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    mark = "\ufeff"
    for line in lines:
        # A lone carriage return inside of quotes is text; at the end of a line it is a line's end.
        yield line.removeprefix(mark).replace("\r\n", "\n")
        mark = ""


def summary(done: PromptImport) -> str:
    return json.dumps({"created": done.created, "existing": done.existing, "failed": done.failed})
