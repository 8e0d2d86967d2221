"""The OpenAI protocol with the real client, the real web server and the real engine."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import httpx
import pytest
from openai import OpenAI

from inference.models import Completion, Prompt
from tests.cast import Cast
from tests.processes import Process
from tests.tiny import CONTEXT

pytestmark = pytest.mark.model
ASKED = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture
def client(web: Process, engine: Process, cast: Cast) -> Any:
    return OpenAI(base_url=f"{web.url}/v1", api_key=cast.key, max_retries=0, timeout=60)


def post(web: Process, key: str, body: Any) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url = f"{web.url}/v1/chat/completions"
    return httpx.post(url, content=raw, headers=headers, timeout=60, trust_env=False)


def row_of(completion_id: str) -> Any:
    return Completion.objects.get(id=uuid.UUID(completion_id))


def test_an_answer_is_a_row_that_names_its_version(client: Any, cast: Cast) -> None:
    answer = client.chat.completions.create(
        model="kitchen", messages=ASKED, max_tokens=12, temperature=0.7, seed=3, user="visitor-7"
    )
    row = row_of(answer.id.removeprefix("chatcmpl-"))
    assert answer.choices[0].completion_id == str(row.id)
    assert answer.model == "kitchen@v1"
    assert answer.system_fingerprint == cast.v1.digest
    assert row.state == "finished"
    assert row.text == answer.choices[0].message.content
    assert row.finish_reason == answer.choices[0].finish_reason
    assert row.prompt.messages == ASKED
    assert row.subject == "visitor-7"
    assert row.api_key == cast.api_key
    assert row.sampling == {"max_tokens": 12, "temperature": 0.7, "seed": 3}
    assert (row.tokens_in, row.tokens_out) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert 0 < row.tokens_out <= 12
    assert 0 < row.ttft_ms <= row.total_ms


def test_without_a_length_an_answer_gets_what_fits_behind_the_prompt(client: Any) -> None:
    long = [{"role": "user", "content": "Why is the sky blue? " * 35}]
    answer = client.chat.completions.create(model="kitchen", messages=long, seed=3)
    row = row_of(answer.id.removeprefix("chatcmpl-"))
    assert row.sampling == {"seed": 3}
    assert CONTEXT - 256 < row.tokens_in < row.tokens_in + row.tokens_out <= CONTEXT


def test_a_stream_names_its_version_in_every_chunk(client: Any, cast: Cast) -> None:
    stream = client.chat.completions.create(
        model="kitchen", messages=ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    assert stream.response.headers["X-Ratchet-Version"] == "kitchen@v1"
    chunks = list(stream)
    row = row_of(chunks[0].id.removeprefix("chatcmpl-"))
    assert {chunk.model for chunk in chunks} == {"kitchen@v1"}
    assert {chunk.id for chunk in chunks} == {f"chatcmpl-{row.id}"}
    assert {chunk.completion_id for chunk in chunks} == {str(row.id)}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == row.text
    assert chunks[-2].choices[0].finish_reason == row.finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == row.tokens_out


def test_eight_choices_are_eight_rows_of_one_prompt(client: Any) -> None:
    answer = client.chat.completions.create(model="kitchen", messages=ASKED, max_tokens=8, n=8)
    rows = [row_of(choice.completion_id) for choice in answer.choices]
    assert [row.index for row in rows] == list(range(8))
    assert [row.text for row in rows] == [choice.message.content for choice in answer.choices]
    assert len({row.prompt_id for row in rows}) == 1
    assert sum(row.tokens_out for row in rows) == answer.usage.completion_tokens
    streamed = client.chat.completions.create(model="kitchen", messages=ASKED, max_tokens=8, n=2, stream=True)
    texts = {0: "", 1: ""}
    ids: dict[int, str] = {}
    for chunk in streamed:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        ids[choice.index] = choice.completion_id
    assert {index: row_of(id_).text for index, id_ in ids.items()} == texts
    assert row_of(ids[0]).prompt_id == rows[0].prompt_id, "the same question is one prompt"


def test_it_can_be_rated_the_moment_the_stream_ends(client: Any, web: Process, cast: Cast) -> None:
    """The end of a stream means that its row is committed."""
    for _ in range(5):
        *_, last = client.chat.completions.create(model="kitchen", messages=ASKED, max_tokens=2, stream=True)
        assert row_of(last.completion_id).state == "finished"


def test_temperature_zero_repeats_itself(client: Any) -> None:
    texts = {
        client.chat.completions.create(model="kitchen", messages=ASKED, max_tokens=8, temperature=0)
        .choices[0]
        .message.content
        for _ in range(2)
    }
    assert len(texts) == 1


def test_models_are_those_of_the_key(client: Any, web: Process, cast: Cast) -> None:
    assert [model.id for model in client.models.list()] == ["kitchen", "kitchen@v1"]
    foreign: Any = OpenAI(base_url=f"{web.url}/v1", api_key=cast.foreign_key)
    assert [model.id for model in foreign.models.list()] == ["garden", "garden@v1"]


WRONG: dict[str, tuple[Any, str | None]] = {
    "temperature as text": ({"temperature": "1"}, "temperature"),
    "temperature too high": ({"temperature": 2.5}, "temperature"),
    "temperature below 0": ({"temperature": -0.1}, "temperature"),
    "a bool for a number": ({"temperature": True}, "temperature"),
    "top_p 0": ({"top_p": 0}, "top_p"),
    "max_tokens 10**9": ({"max_tokens": 10**9}, "max_tokens"),
    "max_completion_tokens 10**9": ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "n 9": ({"n": 9}, "n"),
    "n 0": ({"n": 0}, "n"),
    "an empty stop": ({"stop": ""}, "stop"),
    "five stops": ({"stop": list("abcde")}, "stop"),
    "a seed of 100 bits": ({"seed": 2**100}, None),
    "no messages": ({"messages": []}, "messages"),
    "messages of text": ({"messages": "hello"}, "messages"),
    "an empty message": ({"messages": [{"role": "user", "content": "  "}]}, "messages.0.content"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content"),
    "an unknown role": ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    "an answer last": ({"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, "messages.1.role"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content",
    ),
    "100 kB of message": ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages"),
    "a prompt longer than the context": (
        {"messages": [{"role": "user", "content": "word " * 2_000}]},
        "messages",
    ),
    "NUL": ({"messages": [{"role": "user", "content": "a\x00b"}]}, None),
    "half a character": ({"messages": [{"role": "user", "content": "a\ud800b"}]}, None),
    "model of a number": ({"model": 7}, "model"),
}


def test_what_is_wrong_is_a_400_and_writes_nothing(web: Process, engine: Process, cast: Cast) -> None:
    for name, (change, param) in WRONG.items():
        for is_streamed in (False, True):
            response = post(
                web, cast.key, {"model": "kitchen", "messages": ASKED, "stream": is_streamed, **change}
            )
            assert response.status_code == 400, (name, response.text)
            error = response.json()["error"]
            assert set(error) >= {"type", "code", "message", "param", "request_id"}, name
            assert param is None or str(error["param"]).startswith(param), (name, error)
    nested = b'{"model": "kitchen", "messages": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    nan = b'{"model": "kitchen", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}'
    for raw in (b"", b"{", b'{"model": "kitchen", "mess', nested, nan, b"\xff\xfe", b"[]", b"null"):
        response = post(web, cast.key, raw)
        assert response.status_code == 400, (raw[:40], response.text)
        assert response.json()["error"]["message"]
    assert post(web, cast.key, b" " * 1_200_000).status_code == 413
    assert not Completion.objects.exists()
    assert not Prompt.objects.exists()
    good = post(web, cast.key, {"model": "kitchen", "messages": ASKED, "max_tokens": 4})
    assert good.status_code == 200, "the engine is unharmed"


def test_the_context_is_named_when_it_is_exceeded(web: Process, engine: Process, cast: Cast) -> None:
    for words in (2_000, 20_000):
        body = {"model": "kitchen", "messages": [{"role": "user", "content": "word " * words}]}
        assert post(web, cast.key, body).json()["error"]["code"] == "context_length_exceeded"


def test_unknown_parameters_are_ignored(web: Process, engine: Process, cast: Cast) -> None:
    body = {
        "model": "kitchen",
        "messages": [{"role": "user", "content": "Hi", "name": "bob"}],
        "max_tokens": 2,
        "logit_bias": {},
        "metadata": {"a": "b"},
        "stop": None,
        "top_p": None,
    }
    response = post(web, cast.key, body)
    assert response.status_code == 200, response.text
    assert Prompt.objects.get().messages == [{"role": "user", "content": "Hi"}]


def test_who_may_ask(web: Process, engine: Process, cast: Cast) -> None:
    body = {"model": "kitchen", "messages": ASKED, "max_tokens": 2}
    for key, status, code in (
        ("nothing", 401, "invalid_api_key"),
        ("rk_0000000000_nothing", 401, "invalid_api_key"),
        (cast.foreign_key, 404, "model_not_found"),
    ):
        response = post(web, key, body)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    for model in (
        "nothing",
        "kitchen@v9",
        "kitchen@vv",
        "kitchen@",
        "kitchen@candidate",
        "garden",
        "x" * 5000,
    ):
        response = post(web, cast.key, {**body, "model": model})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found"), model
    assert httpx.get(f"{web.url}/v1/chat/completions", trust_env=False).status_code == 405
    assert httpx.get(f"{web.url}/v1/nothing", trust_env=False).json()["error"]["code"] == "not_found"
    assert not Completion.objects.exists()


def test_headers_and_role_come_before_the_first_token(web: Process, engine: Process, cast: Cast) -> None:
    """Admission is told at once: the time to it is a fraction of the time to the whole answer."""
    body = {"model": "kitchen", "messages": ASKED, "max_tokens": 300, "temperature": 0, "stream": True}
    headers = {"Authorization": f"Bearer {cast.key}"}
    url = f"{web.url}/v1/chat/completions"
    began = time.monotonic()
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60, trust_env=False) as response:
        lines = response.iter_lines()
        first = json.loads(next(lines).removeprefix("data: "))
        admitted = time.monotonic() - began
        assert row_of(first["completion_id"]).prompt.messages == ASKED, "the row is there before the answer"
        assert first["choices"][0]["delta"]["role"] == "assistant"
        for _ in lines:
            pass
    assert admitted < (time.monotonic() - began) / 2


def test_a_killed_engine_is_an_error_event_and_the_next_one_serves(
    web: Process, engine: Process, cast: Cast
) -> None:
    body = {"model": "kitchen", "messages": ASKED, "max_tokens": 400, "stream": True}
    url = f"{web.url}/v1/chat/completions"
    headers = cast.auth()
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60, trust_env=False) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
        for _, line in zip(range(5), lines, strict=False):
            completion_id = json.loads(line)["completion_id"]
        engine.kill()
        rest = list(lines)
    assert json.loads(rest[-1])["error"]["code"] == "engine_failed"
    row = row_of(completion_id)
    assert (row.state, row.is_judgeable) == ("failed", False)
    assert row.text, "what was said is kept"
    refused = post(web, cast.key, {"model": "kitchen", "messages": ASKED})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert Completion.objects.count() == 1
    engine.start()
    again = post(web, cast.key, {"model": "kitchen", "messages": ASKED, "max_tokens": 2})
    assert again.status_code == 200, again.text
