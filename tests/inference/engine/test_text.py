"""Text is released when it is certain, and not before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.text import TextStream

pytestmark = pytest.mark.unit


def decode(tokens: list[int]) -> str:
    """Tokens that are bytes: every character beyond ASCII takes several."""
    return bytes(tokens).decode(errors="replace")


def feed(data: bytes, stops=(), size=1) -> tuple[list[str], bool]:
    stream = TextStream(decode, stops)
    parts = [stream.push(list(data[place : place + size])) for place in range(0, len(data), size)]
    return [*parts, stream.finish()], stream.stopped


def test_half_a_character_is_held_back():
    parts, _ = feed("aé🙂".encode())
    assert parts == ["a", "", "é", "", "", "", "🙂", ""]


def test_half_a_character_at_the_end_is_dropped():
    parts, _ = feed("ok🙂".encode()[:-1])
    assert "".join(parts) == "ok"


def test_a_stop_string_never_shows():
    parts, stopped = feed(b"one two three", ["two"])
    assert "".join(parts) == "one "
    assert stopped
    assert parts[4:6] == ["", ""]  # "t" and "tw" might have become it


def test_what_only_began_as_a_stop_string_is_shown():
    parts, stopped = feed(b"a tw b", ["two"])
    assert "".join(parts) == "a tw b"
    assert not stopped


def test_the_earliest_stop_string_counts():
    assert "".join(feed(b"abcdef", ["ef", "bc"], size=6)[0]) == "a"


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=3), max_size=4), st.integers(1, 7))
def test_pieces_make_the_whole(text, stops, size):
    text = text.rstrip("\ufffd")
    parts, stopped = feed(text.encode(errors="replace"), stops, size)
    expected = text.encode(errors="replace").decode()
    cuts = [expected.find(stop) for stop in stops if stop in expected]
    assert "".join(parts) == (expected[: min(cuts)] if cuts else expected)
    assert stopped == bool(cuts)


@given(st.binary(max_size=80), st.integers(1, 5))
def test_broken_bytes_change_nothing_that_was_said(data, size):
    parts, _ = feed(data, size=size)
    assert "".join(parts) == decode(list(data)).removesuffix("\ufffd")
