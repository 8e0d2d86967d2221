"""What a client can do on the wire that Django's test client cannot: through a real server."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from feedback.models import Rating
from inference.models import Prompt
from tests.cast import Cast
from tests.processes import Process

LINE = b'{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}\n'
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}


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


def test_a_body_in_chunks_is_read(client: httpx.Client):
    pieces = (piece for piece in (LINE, LINE[:20], LINE[20:], LINE))
    response = client.post("/prompts", content=pieces, headers=NDJSON)
    assert response.request.headers["Transfer-Encoding"] == "chunked"
    assert response.json() | {"created": 1, "existing": 2, "failed": 0} == response.json()
    wrong = client.post("/feedback", content=iter([b'{"kind": ', b'"rating"}']), headers=JSON)
    assert (*code(wrong), wrong.json()["error"]["param"]) == (422, "invalid_value", "completion_id")
    assert code(client.post("/feedback", content=iter([b'{"kind": ']), headers=JSON)) == (
        400,
        "malformed_body",
    )


def test_a_static_file_that_is_not_there_is_404(web: Process):
    """Also one of another release, whose name a page in a cache still asks for."""
    for path in ("/static/projects/old.css", "/static/", "/static/%2e%2e/%2e%2e/config/settings.py"):
        assert httpx.get(f"{web.url}{path}", trust_env=False).status_code == 404
    assert httpx.get(f"{web.url}/static/projects/ratchet.css", trust_env=False).status_code == 200


def test_two_keys_are_none(client: httpx.Client, cast: Cast):
    del client.headers["Authorization"]
    for second in (cast.key, cast.foreign_key):
        headers = [("Authorization", f"Bearer {key}") for key in (cast.key, second)]
        assert code(client.get("/prompts", headers=headers)) == (401, "invalid_api_key")
    assert client.get("/prompts", headers=[("Authorization", f"Bearer {cast.key}")]).status_code == 200


@pytest.mark.parametrize("has_length", [True, False])
def test_a_body_larger_than_allowed_is_413(client: httpx.Client, has_length: bool):
    body = json.dumps({"items": ["x" * 3_000_000]}).encode()
    pieces = (body[place : place + 50_000] for place in range(0, len(body), 50_000))
    response = client.post("/feedback/batch", content=body if has_length else pieces, headers=JSON)
    assert ("Content-Length" in response.request.headers) is has_length
    assert code(response) == (413, "body_too_large")


def test_the_models_have_a_head(web: Process, client: httpx.Client):
    for path in ("models", "models/kitchen"):
        response = client.head(f"{web.url}/v1/{path}")
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0


def test_a_compressed_body_is_refused_under_both_addresses(web: Process, client: httpx.Client):
    body = gzip.compress(json.dumps({"model": "kitchen", "messages": []}).encode())
    for path in ("/v1/chat/completions", "/api/v1/feedback"):
        response = client.post(f"{web.url}{path}", content=body, headers={**JSON, "Content-Encoding": "gzip"})
        assert code(response) == (415, "unsupported_encoding")


def test_a_host_that_is_not_allowed_is_told_the_same_by_both_servers(web: Process, client: httpx.Client):
    for path in ("/v1/models", "/api/v1/prompts"):
        response = client.get(f"{web.url}{path}", headers={"Host": "ratchet.lan"})
        assert code(response) == (400, "host_not_allowed")


def test_more_clients_than_connections_wait_and_are_all_answered(client: httpx.Client, cast: Cast):
    """Each client's own connection and thread, as load balancers come: many more than the pool has."""
    _, [answer, _] = cast.answered_prompt()
    body = {"kind": "rating", "completion_id": str(answer.pk), "value": 1}

    def judge(number: int) -> int:
        with httpx.Client(headers=client.headers, trust_env=False, timeout=30) as own:
            said = [
                own.post(f"{client.base_url}feedback", json={**body, "subject": f"{number}-{n}"})
                for n in range(3)
            ]
        return sum(one.status_code == 201 for one in said)

    with ThreadPoolExecutor(40) as clients:
        assert sum(clients.map(judge, range(40))) == 120
    assert Rating.objects.count() == 120


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
