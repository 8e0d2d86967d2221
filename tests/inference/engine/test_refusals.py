"""Everything that a request can say wrongly has its answer, and does the engine no harm."""

import http.client
import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

pytestmark = pytest.mark.model
USER = [{"role": "user", "content": "Hi"}]
GOOD = {"model": "tiny", "messages": USER, "max_tokens": 1}


@pytest.fixture(autouse=True)
def unharmed(engine):
    yield
    assert engine.text(temperature=0, max_tokens=1) is not None
    assert "ratchet_engine_restarts_total{" not in engine.http.get("/metrics").text


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ({"temperature": -0.1}, "invalid_value", "temperature"),
        ({"temperature": 2.1}, "invalid_value", "temperature"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"temperature": True}, "invalid_value", "temperature"),
        ({"top_p": 0}, "invalid_value", "top_p"),
        ({"top_p": 1.5}, "invalid_value", "top_p"),
        ({"top_k": 65}, "invalid_value", "top_k"),
        ({"top_k": 2.5}, "invalid_value", "top_k"),
        ({"seed": "x"}, "invalid_value", "seed"),
        ({"seed": 2**70}, "invalid_value", "seed"),
        ({"n": 0}, "invalid_value", "n"),
        ({"n": 9}, "invalid_value", "n"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": -5}, "invalid_value", "max_tokens"),
        ({"max_tokens": "7"}, "invalid_value", "max_tokens"),
        ({"max_tokens": 10**9}, "context_length_exceeded", "messages"),
        ({"max_completion_tokens": 10**9}, "context_length_exceeded", "messages"),
        ({"stream": "yes"}, "invalid_value", "stream"),
        ({"stop": ["a"] * 5}, "invalid_value", None),
        ({"stop": [""]}, "invalid_value", None),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": "Hi"}, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "invalid_value", "messages"),
        ({"messages": [{"role": "user"}]}, "invalid_value", "messages"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"content": "Hi"}]}, "missing_parameter", "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_value", None),
        ({"messages": [{"role": "user", "content": "sky " * 2000}]}, "context_length_exceeded", "messages"),
        ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "context_length_exceeded", "messages"),
        ({"model": ""}, "invalid_value", "model"),
        ({"model": None}, "invalid_value", "model"),
    ],
)
def test_a_wrong_value_is_named(engine, wrong, code, param):
    response = engine.chat(**{**GOOD, **wrong})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"type", "code", "message", "param"}
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert param is None or error["param"] == param


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p"])
def test_numbers_that_are_none(engine, field, value):
    body = json.dumps(GOOD)[:-1] + f', "{field}": {value}}}'
    response = engine.http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        json.dumps(GOOD).encode()[:-7],
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b"[" * 100_000,
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "\xff"}',
    ],
)
def test_a_body_that_is_no_request(engine, body):
    response = engine.http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_value", "missing_parameter")


ANY = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MESSAGE = some.fixed_dictionaries(
    {},
    optional={
        "role": some.sampled_from(["system", "developer", "user", "assistant", "tool"]) | ANY,
        "content": some.text(max_size=40) | some.lists(ANY, max_size=2) | ANY,
        "name": ANY,
    },
)
BODY = some.fixed_dictionaries(
    {
        # Never left out: a request that is right by chance would be answered at length.
        "max_tokens": some.integers(1, 3) | some.sampled_from([0, -1, 2**31, 2**63, 1e300, "1", True, []]),
        "messages": some.lists(MESSAGE, max_size=4) | ANY,
    },
    optional={
        "model": some.just("tiny") | ANY,
        "temperature": some.floats(0, 2) | some.sampled_from([5e-324, 1e-40, 1e-5]) | ANY,
        "top_p": some.floats(0, 1) | some.sampled_from([5e-324, 1e-46]) | ANY,
        "top_k": some.integers(-1, 64) | ANY,
        "seed": some.integers(-(2**64), 2**65) | ANY,
        "stop": some.text(max_size=3) | some.lists(some.text(max_size=3), max_size=5) | ANY,
        "n": some.integers(0, 9) | ANY,
        "stream": some.booleans() | ANY,
        "stream_options": some.dictionaries(some.just("include_usage"), some.booleans()) | ANY,
        "ignore_eos": some.booleans() | ANY,
        "logit_bias": ANY,
        "response_format": ANY,
        "tools": ANY,
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODY)
def test_nothing_that_a_request_says_stops_the_engine(engine, body):
    """A sensible answer or a sensible refusal; that the thread is alive is seen at the end of the test."""
    content = json.dumps({"model": "tiny", **body}).encode(errors="surrogatepass")
    response = engine.http.post("/v1/chat/completions", content=content)
    assert response.status_code in (200, 400, 404), (body, response.text)
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"type", "code", "message", "param"}
    assert '"error"' not in response.text or response.status_code != 200


def test_unknown_parameters_are_ignored(engine):
    assert engine.chat(**GOOD, user="u1", logit_bias={}, tools=[], store=True).status_code == 200


def test_a_body_too_large(engine):
    response = engine.chat(messages=[{"role": "user", "content": "x" * 1_100_000}])
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


def test_a_body_too_large_that_does_not_say_so(engine):
    """Chunked, so that there is no length to believe."""
    response = engine.http.post("/v1/chat/completions", content=(b" " * 100_000 for _ in range(12)))
    assert response.status_code == 413


@pytest.mark.parametrize("model", ["v99", "tiny ", "TINY", "../tiny"])
def test_an_unknown_model(engine, model):
    response = engine.chat(model=model)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "engine-key2", "Basic engine-key"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
    ],
)
def test_nothing_is_open_without_the_key(engine, method, path, header):
    headers = {} if header is None else {"Authorization": header}
    response = httpx.request(method, engine.url + path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"


def test_health_is_open(engine):
    assert httpx.get(f"{engine.url}/health").json() == {"status": "ok"}


def test_wrong_paths_and_methods_have_the_same_shape(engine):
    assert engine.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    response = engine.http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"


def test_a_client_that_leaves_while_it_sends(engine):
    connection = http.client.HTTPConnection("127.0.0.1", engine.http.base_url.port)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Authorization", "Bearer engine-key")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b'{"model": ')
    connection.close()
