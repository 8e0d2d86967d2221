"""What is wrong is refused with the right status, in an error object that our client reads."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from inference.client import EngineRefused, EngineUnavailable, ModelMissing, error_of
from inference.services.completions import problem_of
from tests.conformance.conftest import USER, Target

pytestmark = pytest.mark.model
GOOD: dict[str, Any] = {"messages": USER, "max_tokens": 1}


def refused(response: httpx.Response) -> str:
    """The message of an error object."""
    error = response.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["message"]
    return str(error["message"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"n": 0},
        {"n": 100_000},
        {"max_tokens": 0},
        {"max_tokens": -5},
        {"max_tokens": "many"},
        {"max_tokens": 10**9},
        {"seed": "x"},
        {"seed": 2**70},
        {"stop": [""]},
        {"stop": ["a"] * 5},
        {"messages": []},
        {"messages": "Hi"},
        {"messages": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_value_is_a_400_before_the_first_byte(
    target: Target, wrong: dict[str, Any], stream: bool
) -> None:
    response = target.chat(**{**GOOD, **wrong}, stream=stream)
    assert response.status_code == 400, response.text
    assert refused(response)
    assert type(error_of(response)) is EngineRefused
    assert target.chat(**GOOD).status_code == 200, "and does no harm"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"messages": []'])
def test_a_body_that_is_no_request(target: Target, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = target.http.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert refused(response)


@pytest.mark.parametrize("words", [2_000, 20_000])
def test_a_prompt_that_is_too_long_is_named(target: Target, words: int) -> None:
    response = target.chat(messages=[{"role": "user", "content": "sky " * words}], max_tokens=1)
    assert response.status_code == 400, response.text
    problem = problem_of(error_of(response))
    assert (problem.status, problem.code, problem.param) == (400, "context_length_exceeded", "messages")


def test_a_prompt_that_leaves_too_little_room(target: Target) -> None:
    """Ours refuses, vLLM answers as much as fits; neither goes beyond the context."""
    response = target.chat(
        messages=[{"role": "user", "content": "sky " * 200}], max_tokens=400, temperature=0, ignore_eos=True
    )
    if response.status_code == 400:
        assert problem_of(error_of(response)).code == "context_length_exceeded"
    else:
        assert response.json()["choices"][0]["finish_reason"] == "length"
        assert response.json()["usage"]["total_tokens"] == target.cards()[target.base]["max_model_len"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_unknown_model_is_a_404(target: Target, stream: bool) -> None:
    response = target.chat("nobody-v9", **GOOD, stream=stream)
    assert response.status_code == 404
    assert "nobody-v9" in refused(response)
    assert type(error_of(response)) is ModelMissing


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic engine-key-for-tests"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
    ],
)
def test_without_the_key_nothing_is_done(target: Target, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    body = {"model": target.base, **GOOD} if method == "POST" else None
    response = httpx.request(method, f"{target.url}{path}", headers=headers, json=body, trust_env=False)
    assert response.status_code == 401
    error = error_of(response)
    assert (type(error), error.code) == (EngineUnavailable, "engine_key")


def test_unknown_routes_and_methods(target: Target) -> None:
    assert target.http.get("/v1/nothing").status_code == 404
    assert target.http.get("/v1/chat/completions").status_code == 405
