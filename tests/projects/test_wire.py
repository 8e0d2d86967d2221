"""What a client can do on the wire that Django's test client cannot: through a real server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from inference.models import Prompt
from tests.cast import Cast
from tests.processes import Process

LINE = b'{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}\n'
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def client(web: Process, cast: Cast) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{web.url}/api/v1", headers=cast.auth(), trust_env=False, timeout=20
    ) as client:
        yield client


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert error["request_id"] == response.headers["X-Request-Id"]
    return response.status_code, error["code"]


def test_a_body_in_chunks_is_refused_and_not_taken_for_an_empty_one(client: httpx.Client):
    pieces = (LINE for _ in range(3))
    response = client.post("/prompts", content=pieces, headers=NDJSON)
    assert response.request.headers["Transfer-Encoding"] == "chunked"
    assert code(response) == (411, "length_required")
    assert client.post("/prompts", content=LINE, headers=NDJSON).json()["created"] == 1


def test_two_keys_are_none(client: httpx.Client, cast: Cast):
    del client.headers["Authorization"]
    for second in (cast.key, cast.foreign_key):
        headers = [("Authorization", f"Bearer {key}") for key in (cast.key, second)]
        assert code(client.get("/prompts", headers=headers)) == (401, "invalid_api_key")
    assert client.get("/prompts", headers=[("Authorization", f"Bearer {cast.key}")]).status_code == 200


def test_a_body_larger_than_allowed_is_413(client: httpx.Client):
    body = json.dumps({"items": ["x" * 3_000_000]})
    response = client.post("/feedback/batch", content=body, headers={"Content-Type": "application/json"})
    assert code(response) == (413, "body_too_large")


def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(
    web: Process, client: httpx.Client
):
    host, _, port = urlsplit(str(web.url)).netloc.partition(":")
    head = (
        f"POST /api/v1/prompts HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/x-ndjson\r\n"
        f"Authorization: {client.headers['Authorization']}\r\nContent-Length: 1000\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head.encode() + LINE)
    assert client.get("/prompts").json()["items"] == []
    assert not Prompt.objects.exists()


def test_paths_that_climb_lead_nowhere(client: httpx.Client):
    for path in (
        "/prompts/../../admin/",
        "/prompts/%2e%2e/feedback",
        "/prompts/..%2f..%2fetc%2fpasswd",
        "//x",
    ):
        assert client.get(path).status_code == 404
