"""The client of an engine believes nothing: whatever comes is an answer or a named error."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.client import (
    EngineBroken,
    EngineBusy,
    EngineClient,
    EngineError,
    EngineRefused,
    EngineUnavailable,
    ModelMissing,
    Piece,
    Usage,
    _events,
    chat_body,
    storable,
)
from inference.services.completions import problem_of

pytestmark = pytest.mark.unit
MESSAGES = [{"role": "user", "content": "Hi"}]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
odd = json_values
choices = st.fixed_dictionaries(
    {"index": odd},
    optional={"delta": odd | st.fixed_dictionaries({"content": odd}), "finish_reason": odd},
)
near_events = st.fixed_dictionaries(
    {"choices": odd | st.lists(choices)}, optional={"usage": odd, "error": odd}
)


@pytest.mark.slow
@given(st.lists(near_events.map(json.dumps) | st.text() | json_values.map(json.dumps)))
def test_any_stream_is_events_or_a_named_error(datas: list[str]) -> None:
    lines = iter([f"data: {data}" for data in datas] + ["data: [DONE]"])
    try:
        for event in _events(lines):
            assert isinstance(event, Piece | Usage)
    except EngineError:
        return


def test_nesting_and_length_are_bounded() -> None:
    for data in (
        "[" * 100_000,
        "x" * 2_000_000,
        '{"choices": [{"index": 1e999, "delta": {"content": "x"}}]}',
    ):
        with pytest.raises(EngineBroken):
            list(_events(iter([f"data: {data}", "data: [DONE]"])))


def test_a_stream_without_an_end_is_broken() -> None:
    with pytest.raises(EngineBroken, match="in the middle"):
        list(_events(iter(['data: {"choices": []}'])))


@given(st.text())
def test_text_can_be_kept(text: str) -> None:
    kept = storable(text + "\x00\ud800")
    assert len(kept) == len(text) + 2
    assert "\x00" not in kept
    kept.encode()
    assert storable(kept) == kept
    assert storable("Grüße 😀\n") == "Grüße 😀\n"


class Answers(BaseHTTPRequestHandler):
    """Answers every request with the status and body that the test has set."""

    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def client() -> Iterator[EngineClient]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield EngineClient(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def answer(status: int, body: bytes = b"") -> None:
    Answers.status, Answers.body = status, body


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, EngineRefused),
        (401, EngineUnavailable),
        (404, ModelMissing),
        (408, EngineUnavailable),
        (409, EngineRefused),
        (413, EngineRefused),
        (429, EngineBusy),
        (500, EngineUnavailable),
        (503, EngineUnavailable),
        (504, EngineUnavailable),
        (507, EngineRefused),
    ],
)
@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"error": "text"}', b'{"error": {"message": "why", "code": 400}}'],
)
def test_each_status_has_a_meaning(
    client: EngineClient, status: int, kind: type[EngineError], body: bytes
) -> None:
    answer(status, body)
    with pytest.raises(kind) as raised:
        client.unload("name")
    assert type(raised.value) is kind
    assert raised.value.message
    with pytest.raises(kind):
        client.complete(model="name", messages=MESSAGES, sampling={})
    with pytest.raises(
        EngineRefused if status == 500 else kind
    ):  # vLLM's answer for files that it cannot read
        client.load("name", "path")


def test_models_as_ours_and_as_vllm_say_them(client: EngineClient) -> None:
    ours = {"digest": "sha256:1", "merge_error": 0.1, "logit_shift": 2.0, "dtype": "bfloat16"}
    entries = [
        {"id": "base", "parent": None},
        {"id": "kitchen-v2", "parent": "base", "ratchet": {**ours, "running": 2, "waiting": 1}},
        {"id": "kitchen-v3", "parent": "base", "root": "/a"},
    ]
    answer(200, json.dumps({"data": entries}).encode())
    cards = client.models()
    assert [card.is_base for card in cards.values()] == [True, False, False]
    assert (cards["kitchen-v2"].digest, cards["kitchen-v2"].in_flight) == ("sha256:1", 3)
    assert (cards["kitchen-v3"].digest, cards["kitchen-v3"].in_flight) == (None, None)
    assert cards["kitchen-v3"].root == "/a"
    odd = b'{"data": [{"id": "x", "ratchet": [1]}]}'
    for wrong in (b"{}", b"[]", b'{"data": 5}', b'{"data": [{}]}', odd, b"", b"<html>"):
        answer(200, wrong)
        with pytest.raises(EngineBroken):
            client.models()


def test_several_greedy_answers_are_asked_for_as_vllm_takes_them() -> None:
    greedy = {"temperature": 0, "seed": None}
    several = chat_body(model="x", messages=MESSAGES, sampling=greedy, n=2)
    assert (several["temperature"], several["top_k"], several["n"]) == (1.0, 1, 2)
    one = chat_body(model="x", messages=MESSAGES, sampling=greedy, n=1)
    assert one["temperature"] == 0
    assert not {"top_k", "seed"} & set(one)


def test_nobody_there() -> None:
    nobody = EngineClient("http://127.0.0.1:9")
    assert not nobody.is_healthy()
    with pytest.raises(EngineUnavailable, match="cannot be reached"):
        nobody.models()
    with pytest.raises(EngineUnavailable):
        nobody.complete(model="x", messages=MESSAGES, sampling={})


def test_a_refusal_that_has_no_code_gets_one() -> None:
    problem = problem_of(EngineRefused("no such sampling"))
    assert (problem.status, problem.code, problem.message) == (400, "invalid_request", "no such sampling")
