"""JSON from strangers: what is strange is refused with a 4xx and a sentence, in time linear in its size."""

from __future__ import annotations

import gzip
import io
import json
import time
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from projects.bodies import (
    MAX_DEPTH,
    Id,
    NewId,
    StrictBody,
    Time,
    parse_body,
    parse_json,
    read_lines,
)
from projects.errors import Invalid, Malformed, Problem, TooLarge

pytestmark = pytest.mark.unit

plain_text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | plain_text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4)
)


@given(values)
def test_json_is_read_as_it_was_written(value: Any):
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


@given(
    st.binary(max_size=200)
    | st.text('[]{}",:\\u0eE+-.1 \n\udfff', max_size=80).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )
)
def test_no_bytes_do_worse_than_a_problem(raw: bytes):
    try:
        value = parse_json(raw)
    except Problem as problem:
        assert 400 <= problem.status < 500 and problem.message
    else:
        assert json.loads(raw) == value


@given(values, st.data())
def test_truncated_json_is_malformed(value: Any, data: st.DataObject):
    raw = json.dumps([value]).encode()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(Malformed):
        parse_json(raw[:cut])


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "malformed_body"),
        (b"{", "malformed_body"),
        (b'{"a": 1} {"b": 2}', "malformed_body"),
        (b"\xef\xbb\xbf{}", "malformed_body"),
        (b'{"a": "\xff"}', "malformed_body"),
        (b'"\xed\xa0\x80"', "malformed_body"),
        (gzip.compress(b"{}", mtime=0), "malformed_body"),
        (b'{"a": NaN}', "not_a_number"),
        (b"[-Infinity]", "not_a_number"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
        (b"[1e400]", "number_too_large"),
        (b"[-1e400]", "number_too_large"),
        (b"[" + b"9" * 5000 + b"]", "number_too_large"),
        (b"[1." + b"9" * 5000 + b"]", "number_too_large"),
        (b'["\\u0000"]', "invalid_text"),
        (b'{"\\u0000": 1}', "invalid_text"),
        (b'["\\ud800"]', "invalid_text"),
        (b'["\\udc00\\ud800"]', "invalid_text"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested_too_deeply"),
        (b"[" * 1_000 + b"]" * 1_000, "nested_too_deeply"),
        (b'{"a":' * 1_000 + b"1" + b"}" * 1_000, "nested_too_deeply"),
        (b"[" * 100_000, "nested_too_deeply"),
        (b'["\\"", ' + b"[" * 100_000, "nested_too_deeply"),
    ],
)
def test_refused(raw: bytes, code: str):
    with pytest.raises(Malformed) as refused:
        parse_json(raw)
    assert refused.value.code == code
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        json.dumps("[{" * 500).encode(),  # brackets in a text nest nothing
        json.dumps(['\\"[[', "]]"] * 300).encode(),
        b"[" + b"[]," * 5_000 + b"[]]",
        '["\\ud83d\\ude00", "😀"]'.encode(),
    ],
)
def test_accepted(raw: bytes):
    assert parse_json(raw) == json.loads(raw)


def test_too_large():
    with pytest.raises(TooLarge) as refused:
        parse_json(b" " * (settings.MAX_BODY_BYTES + 1))
    assert refused.value.status == 413


@pytest.mark.parametrize("piece", ['\\"', "[", "]", "[]", "{}", '"', '"\\', "\\", '"[', 'a"', "[1,"])
def test_a_megabyte_of_anything_takes_no_longer_than_it_must(piece: str):
    size = settings.MAX_BODY_BYTES - 1
    for raw in (piece * (size // len(piece)), '"' + piece * (size // len(piece) - 1)):
        start = time.perf_counter()
        with pytest.raises(Malformed):
            parse_json(raw.encode())
        # About 0.1 s; a quadratic scan would take minutes.
        assert time.perf_counter() - start < 20


class Body(StrictBody):
    count: int = 0
    share: float = 0.0
    name: str = ""
    names: list[str] = []
    id: Id | None = None
    new_id: NewId | None = None
    at: Time | None = None


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        ({"count": "3"}, "count", "invalid_value"),
        ({"count": 3.0}, "count", "invalid_value"),
        ({"count": True}, "count", "invalid_value"),
        ({"count": None}, "count", "invalid_value"),
        ({"share": "0.5"}, "share", "invalid_value"),
        ({"share": float("nan")}, "share", "invalid_value"),
        ({"name": 5}, "name", "invalid_value"),
        ({"names": "ab"}, "names", "invalid_value"),
        ({"names": ["a", 1]}, "names.1", "invalid_value"),
        ({"id": "../../etc"}, "id", "invalid_value"),
        ({"id": "{01890a5d-ac96-774b-bcce-b302099a8057}"}, "id", "invalid_value"),
        ({"id": "01890a5dac96774bbcceb302099a8057"}, "id", "invalid_value"),
        ({"id": 7}, "id", "invalid_value"),
        ({"new_id": "9f1c8a3e-2f60-4f0e-8f6e-0d8a5a0c9a11"}, "new_id", "invalid_value"),
        ({"at": "2026-01-31T12:00:00"}, "at", "invalid_value"),
        ({"at": "2026-02-31T12:00:00Z"}, "at", "invalid_value"),
        ({"at": 1_700_000_000}, "at", "invalid_value"),
        ({"unknown": 1}, "unknown", "unknown_field"),
        ([], None, "invalid_value"),
        (None, None, "invalid_value"),
        ("text", None, "invalid_value"),
    ],
)
def test_wrong_types_name_their_field(value: Any, param: str | None, code: str):
    with pytest.raises(Invalid) as refused:
        parse_body(Body, value)
    assert (refused.value.param, refused.value.code, refused.value.status) == (param, code, 422)
    assert param is None or refused.value.message.startswith(f"{param}: ")


def test_right_types_are_taken():
    text = "01890a5d-ac96-774b-bcce-b302099a8057"
    body = parse_body(
        Body, {"count": 3, "share": 1, "id": text, "new_id": text.upper(), "at": "2026-01-31T12:00:00+02:00"}
    )
    assert (str(body.id), str(body.new_id), body.share) == (text, text, 1.0)
    assert body.at is not None and body.at.utcoffset() is not None


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=20), st.booleans())
def test_lines_come_one_by_one_and_long_ones_are_skipped(lines: list[bytes], ends: bool):
    lines = [line.rstrip(b"\r") for line in lines]
    raw = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    expected = lines if ends or not lines or lines[-1] else lines[:-1]
    found = list(read_lines(io.BytesIO(raw), limit=8))
    assert [line for line in found if line is not None] == [line for line in expected if len(line) <= 8]
    assert found.count(None) == sum(len(line) > 8 for line in expected)
