"""Whatever goes wrong, a program reads the one shape with a request id, and never a 5xx of its own making."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError, close_old_connections, connection, connections
from django.test import Client

from feedback.api import judgements
from inference.models import Prompt
from projects.postgresql.base import DatabaseWrapper
from tests.cast import PASSWORD, Cast, error_of
from tests.services import free_port


def test_an_unknown_address(cast: Cast):
    for path in ("/api/v1/nothing", "/api/nothing", "/v1/nothing", "/api/v1/prompts/../../etc/passwd"):
        response = cast.get(path)
        assert response.status_code == 404
        assert error_of(response)["code"] == "not_found"


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/chat/completions/x"]
)
def test_what_openai_has_and_we_have_not_is_said(cast: Cast, path: str):
    for answer in (cast.get(path), cast.post(path)):
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
        assert f"{path} is not served here" in error_of(answer)["message"]


@pytest.mark.parametrize(
    "path",
    ["/chat/completions", "/models", "/v1", "/v1/v1/models", "/v1/models/", "/api", "/api/foo", "/api/v1"],
)
def test_a_program_with_a_wrong_base_url_is_told_so(cast: Cast, path: str):
    for answer in (cast.get(path), cast.post(path)):
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
        assert "a base URL ends in /v1" in error_of(answer)["message"]


def test_who_accepts_json_or_sends_a_key_reads_json_and_people_a_page(cast: Cast):
    for headers, is_json in (
        ({"accept": "application/json"}, True),
        ({"accept": "*/*", **cast.auth()}, True),
        ({"accept": "text/html, application/json;q=0.9"}, False),
        ({"authorization": "Basic YTpi"}, False),
    ):
        answer = Client().get("/chat/completions", headers=headers)
        assert answer.status_code == 404
        assert answer["Content-Type"].startswith("application/json" if is_json else "text/html")
        assert not is_json or error_of(answer)["code"] == "not_found"


@pytest.mark.parametrize("path", ["/api/v1/prompts", "/v1/models", "/v1/chat/completions", "/api/schema/"])
def test_a_host_that_is_not_allowed_is_named_with_the_setting(cast: Cast, path: str):
    """A client in a container calls this machine by another name."""
    response = Client().get(path, headers={**cast.auth(), "host": "host.docker.internal:8000"})
    assert (response.status_code, error_of(response)["code"]) == (400, "host_not_allowed")
    assert error_of(response)["type"] == "invalid_request_error"
    assert "“host.docker.internal:8000”" in error_of(response)["message"]
    assert "ALLOWED_HOSTS" in error_of(response)["message"]
    assert response["X-Content-Type-Options"] == "nosniff"


def test_what_is_wrong_before_any_view_has_its_code(cast: Cast):
    """Another format, a session that ended under a part of a page, and a form of another site."""
    answer = cast.client.get("/api/v1/prompts", headers={**cast.auth(), "accept": "text/csv"})
    assert (answer.status_code, error_of(answer)["code"]) == (406, "not_acceptable")
    part = {"HX-Request": "true", "accept": "application/json"}
    answer = cast.client.post("/p/kitchen/runs/start", headers=part)
    assert (answer.status_code, error_of(answer)["code"]) == (401, "session_ended")
    answer = Client(enforce_csrf_checks=True).post("/login/", headers={"accept": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "csrf")
    answer = cast.client.post("/api/v1/feedback", headers={**cast.auth(), "transfer-encoding": "chunked"})
    assert (answer.status_code, error_of(answer)["code"]) == (411, "length_required")


def test_a_host_that_is_not_allowed_is_named_to_people(cast: Cast):
    response = Client().get("/login/", headers={"host": "ratchet.lan"})
    assert response.status_code == 400
    assert "“ratchet.lan”" in response.content.decode()
    assert "ALLOWED_HOSTS" in response.content.decode()


@pytest.mark.parametrize("path", ["/v1/models", "/login/"])
def test_a_hostile_host_is_not_repeated(cast: Cast, path: str):
    hostile = 'evil.example/<script>alert(1)</script>"' + "x" * 500
    response = Client().get(path, headers={"host": hostile})
    assert response.status_code == 400
    text = response.content.decode()
    assert "evil.example??script?alert?1?" in text
    assert "alert(1)" not in text
    assert "x" * 100 not in text


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/models", "GET, HEAD"), ("/v1/models/kitchen", "GET, HEAD"), ("/v1/chat/completions", "POST")],
)
def test_another_method_is_405_and_told_which_there_are(cast: Cast, path: str, allowed: str):
    response = Client().delete(path, headers=cast.auth())
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response["Allow"] == allowed


def test_an_address_that_only_takes_forms_says_so_to_people(cast: Cast):
    cast.client.force_login(cast.ada)
    page = cast.client.get("/p/kitchen/runs/start")
    assert (page.status_code, page["Allow"]) == (405, "POST")
    assert "only something that a form is sent to" in page.content.decode()


@pytest.mark.parametrize(
    ("referer", "comes_to"),
    [
        ("http://testserver/p/kitchen/runs/?before=3", "/p/kitchen/runs/?before=3"),
        ("http://evil.example/p/kitchen/", "/"),
        ("", "/"),
    ],
)
def test_who_was_signed_out_under_a_form_comes_back_to_its_page(cast: Cast, referer: str, comes_to: str):
    """The address that the form goes to has no page, so nobody is sent there after signing in."""
    lost = cast.client.post("/p/kitchen/runs/start", {"method": "dpo"}, headers={"referer": referer})
    assert lost.status_code == 302
    sign_in = cast.client.get(lost["Location"])
    assert "nothing was sent" in sign_in.content.decode()
    form = {"username": "ada", "password": PASSWORD, "next": sign_in.context["next"]}
    assert cast.client.post("/login/", form)["Location"] == comes_to


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("abc-1.2_3", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("a b", False),
        ("<script>", False),
        ("", False),
    ],
)
def test_the_request_id_is_the_clients_when_it_is_well_formed(cast: Cast, given: str, is_kept: bool):
    response = Client().get("/api/v1/prompts", headers={"x-request-id": given})
    assert (error_of(response)["request_id"] == given) is is_kept


def test_our_own_bug_is_a_500_that_tells_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("the secret of the house")

    monkeypatch.setattr(judgements, "record_judgement", broken)
    body = {"kind": "flag", "completion_id": "01890a5d-ac96-774b-bcce-b302099a8057", "reason": "spam"}
    response = cast.post("feedback", body)
    assert response.status_code == 500
    assert (error_of(response)["type"], error_of(response)["code"]) == ("server_error", "internal_error")
    assert "secret" not in response.content.decode()


def test_a_proxy_that_hides_tls_is_named_to_its_operator():
    client = Client(enforce_csrf_checks=True)
    response = client.post("/login/", {"username": "ada"}, headers={"Origin": "https://testserver"})
    assert response.status_code == 403
    said = response.content.decode()
    assert all(word in said for word in ("https://testserver", "X-Forwarded-Proto", "CSRF_TRUSTED_ORIGINS"))

    hostile = client.post("/login/", {}, headers={"Origin": "https://<script>.example"}).content.decode()
    assert "https://?script?.example" in hostile

    client.get("/login/")
    without = client.post("/login/", {"username": "ada"}, headers={"Origin": "http://testserver"})
    assert "older than your sign-in" in without.content.decode()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/srv/artifacts/x"),
        OperationalError("database or disk is full"),
        OperationalError('could not extend file "base/1/2": No space left on device'),
    ],
)
def test_a_full_disk_is_503_and_no_bug(cast: Cast, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(judgements, "record_judgement", full)
    body = {"kind": "flag", "completion_id": "01890a5d-ac96-774b-bcce-b302099a8057", "reason": "spam"}
    response = cast.post("feedback", body)
    assert (response.status_code, error_of(response)["code"]) == (503, "disk_full")
    assert int(response.headers["Retry-After"]) > 0
    assert "/srv" not in error_of(response)["message"]


def test_a_database_that_was_not_migrated_is_no_outage(cast: Cast, monkeypatch: pytest.MonkeyPatch):
    """SQLite's "no such column" is the class of error that a database which is away has."""
    monkeypatch.setattr(Prompt._meta.get_field("external_id"), "column", "not_yet")
    response = cast.get("prompts")
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_is_503_with_retry_after(cast: Cast):
    body = {"items": [{"kind": "flag"}]}
    with database_away():
        for response in (
            cast.post("feedback/batch", body),
            cast.get("/api/v1/prompts") if is_postgres() else None,
        ):
            if response is not None:
                assert response.status_code == 503
                assert error_of(response)["code"] == "database_unavailable"
                assert int(response.headers["Retry-After"]) > 0
    assert cast.post("feedback/batch", body).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_was_cut_costs_one_503(cast: Cast):
    if not is_postgres():
        pytest.skip("SQLite has no connections to cut")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    with outside() as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
    statuses = []
    for _ in range(2):
        statuses.append(cast.get("prompts").status_code)
        close_old_connections()  # a server does so after each request; Django's test client does not
    assert statuses == [503, 200]


def is_postgres() -> bool:
    return connection.vendor == "postgresql"


@contextmanager
def database_away() -> Iterator[None]:
    """No connection is to be had: nobody listens where PostgreSQL was, or another holds SQLite's file."""
    if is_postgres():
        # Not the empty pool of this process: who else holds a connection, or gives one back meanwhile, would
        # decide the test.
        connection.close()
        pools: Any = connection._connection_pools  # type: ignore[attr-defined]  # Django has no other way in
        usual = pools.pop(connection.alias, None)
        address, connection.settings_dict["PORT"] = connection.settings_dict["PORT"], str(free_port())
        try:
            yield
        finally:
            connection.settings_dict["PORT"] = address
            connection.close()
            if (nowhere := pools.pop(connection.alias, None)) is not None:
                nowhere.close()
            if usual is not None:
                pools[connection.alias] = usual
            # It is back: what comes next need not wait for somebody to look.
            DatabaseWrapper._next_look = 0.0
    else:
        other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 100")
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.rollback()
            other.close()


@contextmanager
def outside() -> Iterator[Any]:
    """A cursor that is none of the pool's."""
    import psycopg

    settings = connections["default"].settings_dict
    with psycopg.connect(
        host=settings["HOST"],
        port=settings["PORT"],
        user=settings["USER"],
        dbname=settings["NAME"],
        autocommit=True,
    ) as other:
        yield other
