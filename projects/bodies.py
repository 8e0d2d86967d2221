"""Strict request bodies: JSON without surprises, then a pydantic model in strict mode.

Refused with a 4xx and a sentence: truncated JSON, NaN and infinities, duplicate keys, deep nesting, numbers
of thousands of digits, lone surrogates, NUL, unknown fields, wrong types, oversized and compressed bodies.
"""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from typing import IO, Annotated, Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from projects.errors import Invalid, Malformed, TooLarge, UnsupportedMedia

MAX_DEPTH = 32
MAX_INT_DIGITS = 20
MAX_FLOAT_DIGITS = 400
Body = TypeVar("Body", bound=BaseModel)

# A string, also one that never ends; possessive, so that no input makes it look twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP = {byte: 1 if byte in b"[{" else -1 for byte in b"[]{}"}
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class StrictBody(BaseModel):
    """A request body of /api/v1: no unknown fields, no coercion."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class LenientBody(BaseModel):
    """A request body of /v1: OpenAI clients send fields that we do not know, and those are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


def read_uuid(value: object) -> UUID:
    """The UUID in its usual form with four hyphens. Raises ValueError."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise ValueError("must be a UUID such as 01890a5d-ac96-774b-bcce-b302099a8057")
    return UUID(value)


def read_uuid7(value: object) -> UUID:
    """A UUID of version 7, which sorts by its time. Raises ValueError."""
    found = read_uuid(value)
    if found.version != 7:
        raise ValueError("must be a UUIDv7")
    return found


def read_time(value: object) -> datetime:
    """An ISO 8601 time with its offset, as the same moment in UTC. Raises ValueError."""
    found = parse_datetime(value) if isinstance(value, str) else None
    if found is None or found.tzinfo is None:
        raise ValueError("must be an ISO 8601 time with an offset, such as 2026-01-31T12:00:00Z")
    try:
        return found.astimezone(UTC)
    except OverflowError as error:  # the first or last day of all days, on the other side of the world
        raise ValueError("lies outside of the calendar") from error


# JSON has no ids and times, so a strict model takes them from text through these.
Id = Annotated[UUID, BeforeValidator(read_uuid)]
NewId = Annotated[UUID, BeforeValidator(read_uuid7)]
Time = Annotated[datetime, BeforeValidator(read_time)]


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        refuse_compressed((parser_context or {}).get("request"))
        return parse_json(stream.read(settings.MAX_BODY_BYTES + 1))


class NDJSONParser(BaseParser):
    """A JSON value a line. `request.data` is an iterator of Lines, so that memory stays constant."""

    media_type = "application/x-ndjson"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        refuse_compressed((parser_context or {}).get("request"))
        return Lines(stream, limit=settings.MAX_BODY_BYTES)


class Lines:
    """The lines of a stream, read once; `digest()` reads what is left and is the sha256 of all."""

    def __init__(self, stream: IO[bytes], *, limit: int) -> None:
        self._sha256 = hashlib.sha256()
        self._lines = read_lines(stream, limit=limit)

    def __iter__(self) -> Iterator[bytes | None]:
        return self

    def __next__(self) -> bytes | None:
        line = next(self._lines)
        # Of a line that was too long only that it was there is known.
        self._sha256.update(b"\xff" if line is None else line)
        self._sha256.update(b"\n")
        return line

    def digest(self) -> str:
        for _ in self:
            pass
        return self._sha256.hexdigest()


def read_lines(stream: IO[bytes], *, limit: int) -> Iterator[bytes | None]:
    """The lines without their ends; None for one that is longer than `limit` bytes.

    Some editors and exports begin a file with a byte-order mark; it is no part of the first line.
    """
    mark = BOM_UTF8
    while line := stream.readline(limit + 1):
        if line.endswith(b"\n") or len(line) <= limit:
            yield line.rstrip(b"\r\n").removeprefix(mark)
        else:
            while line and not line.endswith(b"\n"):
                line = stream.readline(limit)
            yield None
        mark = b""


def parse_json(raw: bytes, what: str = "body") -> Any:
    """The value in `raw`; `what` is its name in a refusal. Raises Malformed or TooLarge."""
    if len(raw) > settings.MAX_BODY_BYTES:
        raise TooLarge(f"The {what} is larger than {settings.MAX_BODY_BYTES} bytes.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"The {what} is not UTF-8: {error.reason} at byte {error.start}.") from error
    _refuse_depth(raw)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except json.JSONDecodeError as error:
        raise Malformed(f"The {what} is not valid JSON: {error}.") from error
    _refuse_bad_text(value)
    return value


def parse_body(model: type[Body], value: Any) -> Body:
    """Validate a parsed body. Raises Invalid naming the first wrong field and what is expected there."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # A client can send a key of any length; the message repeats only its beginning.
        param = ".".join(str(part)[:80] for part in first["loc"]) or None
        said = first["msg"].removeprefix("Value error, ")
        if not param:
            said = "The body must be an object" if first["type"] == "model_type" else said
        message = f"{param}: {said}." if param else f"{said}."
        code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_value"
        raise Invalid(message, param=param, code=code) from error


def refuse_compressed(request: HttpRequest | Request | None) -> None:
    """Raises UnsupportedMedia: a small body could unpack to any size."""
    encoding = request.headers.get("Content-Encoding", "") if request is not None else ""
    if encoding.lower() not in ("", "identity"):
        raise UnsupportedMedia("Send the body without Content-Encoding.", code="unsupported_encoding")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Malformed(f"The key {key[:80]!r} stands twice in one object.", code="duplicate_key")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON.", code="not_a_number")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_INT_DIGITS:
        raise Malformed("A number has too many digits.", code="number_too_large")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_FLOAT_DIGITS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise Malformed("A number is too large.", code="number_too_large")
    return value


def _refuse_depth(raw: bytes) -> None:
    """Nesting is counted before parsing: the parser itself recurses."""
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise Malformed(f"The body is nested deeper than {MAX_DEPTH} levels.", code="nested_too_deeply")


def _refuse_bad_text(value: Any) -> None:
    """NUL and lone surrogates cannot be stored as text."""
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            raise Malformed("A text holds NUL or half a character.", code="invalid_text")
    elif isinstance(value, list):
        for item in value:
            _refuse_bad_text(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_bad_text(key)
            _refuse_bad_text(item)
