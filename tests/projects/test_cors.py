"""Scripts of other sites: let in where CORS_ORIGINS names their site, with a key and never with a cookie."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from tests.cast import Cast, error_of

ORIGIN = "https://app.example"  # tests/conftest.py names it in CORS_ORIGINS
CALLS = ("/v1/models", "/v1/chat/completions", "/api/v1/feedback")


def preflight(path: str, origin: str) -> Any:
    """What a browser asks before a call that carries a key: without the key."""
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    return Client().options(path, headers=headers)


@pytest.mark.parametrize("path", CALLS)
def test_a_browser_is_told_what_a_script_may_send(cast: Cast, path: str):
    response = preflight(path, ORIGIN)
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in response["Access-Control-Allow-Methods"]
    # The star stands for what OpenAI's client adds, and not for Authorization.
    assert response["Access-Control-Allow-Headers"] == "*, authorization"
    assert "Access-Control-Allow-Credentials" not in response


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "https://app.example.evil", "null"]
)
def test_another_site_is_told_nothing(cast: Cast, origin: str):
    asked = Client().get("/api/v1/prompts", headers={**cast.auth(), "origin": origin})
    for response in (preflight("/api/v1/feedback", origin), asked):
        assert "Access-Control-Allow-Origin" not in response


def test_a_script_reads_answers_and_refusals(cast: Cast):
    for key, status in ((cast.key, 200), ("", 401)):
        response = Client().get("/api/v1/prompts", headers={**cast.auth(key), "origin": ORIGIN})
        assert response.status_code == status
        assert response["Access-Control-Allow-Origin"] == ORIGIN
        assert "X-Request-Id" in response["Access-Control-Expose-Headers"]
        assert "origin" in response["Vary"]
    assert error_of(response)["code"] == "invalid_api_key"


def test_a_session_opens_nothing_to_a_script(cast: Cast):
    browser = Client()
    browser.force_login(cast.ada)
    response = browser.get("/api/v1/prompts", headers={"origin": ORIGIN})
    assert response.status_code == 401
    assert "Access-Control-Allow-Credentials" not in response


@pytest.mark.parametrize("path", ["/", "/login/", "/p/kitchen/chat/", "/admin/", "/healthz"])
def test_pages_are_for_no_script_of_another_site(cast: Cast, path: str):
    browser = Client()
    browser.force_login(cast.ada)
    for response in (browser.get(path, headers={"origin": ORIGIN}), preflight(path, ORIGIN)):
        assert "Access-Control-Allow-Origin" not in response
