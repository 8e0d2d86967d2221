"""What a page may load and run is said with every answer: nothing inline, nothing from elsewhere."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.cast import Cast

STRICT = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


def policy_of(client: Client, path: str) -> dict[str, str]:
    said = client.get(path).headers["Content-Security-Policy"]
    return {words.split()[0]: " ".join(words.split()[1:]) for words in said.split(";")}


@pytest.mark.parametrize(
    "path",
    ["/login/", "/healthz", "/nowhere", "/p/garden/"]
    + [f"/p/kitchen/{page}" for page in ("", "chat/", "work/", "battle/", "lineage/", "policy/", "raters/")],
)
def test_it_is_strict_on_every_kind_of_page(cast: Cast, path: str):
    client = Client(raise_request_exception=False)
    client.force_login(cast.ada)
    assert policy_of(client, path) == STRICT


@pytest.mark.parametrize(("path", "scripts"), [("/admin/", "'self' 'unsafe-eval'"), ("/api/docs/", "'self'")])
def test_two_consoles_that_others_wrote_may_a_little_more(cast: Cast, path: str, scripts: str):
    cast.ada.is_superuser = cast.ada.is_staff = True
    cast.ada.save()
    client = Client()
    client.force_login(cast.ada)
    looser = {"script-src": scripts, "style-src": "'self' 'unsafe-inline'"}
    assert policy_of(client, path) == {**STRICT, **looser}
