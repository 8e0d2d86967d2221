"""Closed unless it says otherwise: every address there is, asked by nobody and by somebody from elsewhere."""

from __future__ import annotations

import re

from django.test import Client

from tests.cast import Cast, error_of
from tests.routes import routes

OPEN = {"/login/", "/favicon.ico", "/healthz", "/api/schema/", "/api/docs/"}
FOR_SCRIPTS = ("/stream", "/stop", "/events")  # what a page's script calls: a sign-in would help it nothing
METHODS = ("get", "post", "patch", "delete")
ANY_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def addresses(*, of_programs: bool) -> list[str]:
    """Every address that is not open to all, its places filled with the kitchen and ids that fit."""
    filled = []
    for path, _ in routes():
        if path in OPEN or path.startswith(("/api/", "/v1/")) is not of_programs:
            continue
        path = path.replace("{slug}", "kitchen").replace("{number}", "1").replace("{user_id}", "1")
        filled.append(re.sub(r"\{\w+\}", ANY_ID, path))
    assert len(filled) > 40, "the routes are not read"
    return filled


def test_without_a_key_every_call_is_401(cast: Cast):
    client = Client(raise_request_exception=False)
    for path in addresses(of_programs=True):
        answers = {method: getattr(client, method)(path) for method in METHODS}
        refused = [answer for answer in answers.values() if answer.status_code != 405]
        assert refused, f"{path} takes no method"
        for answer in refused:
            assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key"), path


def test_without_a_session_every_page_leads_to_the_sign_in(cast: Cast):
    client = Client(raise_request_exception=False)
    for path in addresses(of_programs=False):
        for method in METHODS:
            answer = getattr(client, method)(path)
            if answer.status_code == 405:
                continue
            if path.endswith(FOR_SCRIPTS):
                assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"
                continue
            assert answer.status_code == 302, f"{method} {path}: {answer.status_code}"
            assert answer.headers["Location"].startswith("/login/"), f"{method} {path}: {answer.headers}"


def test_to_somebody_from_elsewhere_no_page_of_a_project_exists(cast: Cast):
    client = Client(raise_request_exception=False)
    client.force_login(cast.eve)
    for path in addresses(of_programs=False):
        if not path.startswith("/p/"):
            continue
        statuses = {method: getattr(client, method)(path).status_code for method in METHODS}
        assert 404 in statuses.values(), f"{path}: {statuses}"
        assert set(statuses.values()) <= {404, 405}, f"{path}: {statuses}"
