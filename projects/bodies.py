"""Strict request bodies: JSON without surprises, then a pydantic model in strict mode.

Refused with a 4xx and a sentence: truncated JSON, NaN and infinities, duplicate keys, deep nesting, numbers
of thousands of digits, lone surrogates, NUL, unknown fields, wrong types, oversized bodies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, TypeVar

from django.conf import settings
from pydantic import BaseModel, ConfigDict, ValidationError
from rest_framework.parsers import BaseParser

from projects.errors import Invalid, Malformed, TooLarge

MAX_DEPTH = 32
Body = TypeVar("Body", bound="StrictBody")


class StrictBody(BaseModel):
    """A request body of /api/v1: no unknown fields, no coercion."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class LenientBody(BaseModel):
    """A request body of /v1: OpenAI clients send fields that we do not know, and those are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        raw = stream.read(settings.MAX_BODY_BYTES + 1)
        return parse_json(raw)


def parse_json(raw: bytes) -> Any:
    """The value in `raw`. Raises Malformed or TooLarge."""
    if len(raw) > settings.MAX_BODY_BYTES:
        raise TooLarge(f"The body is larger than {settings.MAX_BODY_BYTES} bytes.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from error
    _refuse_depth(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise Malformed(f"The body is not valid JSON: {error}.") from error
    _refuse_bad_text(value)
    return value


def parse_body(model: type[Body], value: Any) -> Body:
    """Validate a parsed body. Raises Invalid naming the first wrong field and what is expected there."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        message = f"{param}: {first['msg']}." if param else f"{first['msg']}."
        code = "unknown_field" if first["type"] == "extra_forbidden" else "invalid_value"
        raise Invalid(message, param=param, code=code) from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Malformed(f"The key {key!r} stands twice in one object.", code="duplicate_key")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON.", code="not_a_number")


def _parse_int(digits: str) -> int:
    if len(digits) > 20:
        raise Malformed("A number has too many digits.", code="number_too_large")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits) if len(digits) <= 400 else float("inf")
    if value in (float("inf"), float("-inf")):
        raise Malformed("A number is too large.", code="number_too_large")
    return value


def _refuse_depth(text: str) -> None:
    """Nesting is counted before parsing: the parser itself recurses."""
    depth, in_string, escaped = 0, False, False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(
                    f"The body is nested deeper than {MAX_DEPTH} levels.", code="nested_too_deeply"
                )
        elif character in "]}":
            depth -= 1


def _refuse_bad_text(value: Any) -> None:
    """NUL and lone surrogates cannot be stored as text."""
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise Malformed("A text holds NUL or half a character.", code="invalid_text")
    elif isinstance(value, list):
        for item in value:
            _refuse_bad_text(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_bad_text(key)
            _refuse_bad_text(item)
