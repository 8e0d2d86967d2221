"""Who may call: a key in one header, with its scopes, of one project."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from projects.models import ApiKey
from projects.services import SYSTEM, create_api_key, revoke_api_key
from tests.cast import Cast, error_of

PATH = "/api/v1/prompts"


def status(header: str | None, **params: str) -> int:
    headers = {} if header is None else {"authorization": header}
    response = Client(raise_request_exception=False).get(PATH, params, headers=headers)
    if response.status_code == 401:
        assert error_of(response)["code"] == "invalid_api_key"
        assert response.headers["WWW-Authenticate"] == "Bearer"
    return response.status_code


def test_a_key_opens_its_project(cast: Cast):
    assert status(f"Bearer {cast.key}") == 200
    assert status(f"bearer   {cast.key} ") == 200


def test_wrong_keys_do_not(cast: Cast):
    key = cast.key
    prefix = key.split("_")[1]
    for header in [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {key}",
        f"Token {key}",
        key,
        f"Bearer {key[:-1]}",
        f"Bearer {key}x",
        f"Bearer rk_{prefix}_",
        f"Bearer rk_{prefix}_wrong",
        f"Bearer {key.upper()}",
        f"Bearer sk-{key}",
        f"Bearer rk_{prefix}",
        "Bearer rk__x",
        "Bearer rk_\x00_x",
        "Bearer rk_" + "a" * 100_000,
        "Bearer rk_é_é",
        f"Bearer {key}, Bearer {key}",
        f"Bearer {key},Bearer {cast.foreign_key}",
    ]:
        assert status(header) == 401, header


def test_a_key_in_the_address_is_no_key(cast: Cast):
    assert status(None, api_key=cast.key) == 401
    assert status(None, Authorization=f"Bearer {cast.key}") == 401


def test_expired_and_revoked_keys_are_dead(cast: Cast):
    now = timezone.now()
    scopes = ["data:read"]
    _, fresh = create_api_key(
        project=cast.project, name="a", scopes=scopes, actor=SYSTEM, expires=now + timedelta(hours=1)
    )
    ended, expired = create_api_key(
        project=cast.project, name="b", scopes=scopes, actor=SYSTEM, expires=now + timedelta(hours=1)
    )
    ApiKey.objects.filter(pk=ended.pk).update(expires=now)
    row, revoked = create_api_key(project=cast.project, name="c", scopes=scopes, actor=SYSTEM)
    assert status(f"Bearer {revoked}") == 200
    assert revoke_api_key(key=row, actor=SYSTEM) and not revoke_api_key(key=row, actor=SYSTEM)
    assert [status(f"Bearer {key}") for key in (fresh, expired, revoked)] == [200, 401, 401]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("post", "prompts", "feedback:write"),
        ("get", "prompts", "data:read"),
        ("get", "prompts/01890a5d-ac96-774b-bcce-b302099a8057", "data:read"),
        ("post", "completions", "feedback:write"),
        ("get", "completions", "data:read"),
        ("post", "feedback", "feedback:write"),
        ("post", "feedback/batch", "feedback:write"),
        ("get", "feedback", "feedback:read"),
        ("delete", "feedback/01890a5d-ac96-774b-bcce-b302099a8057", "feedback:write"),
        ("get", "keys", "manage"),
        ("post", "keys", "manage"),
        ("post", "keys/01890a5d-ac96-774b-bcce-b302099a8057/rotate", "manage"),
        ("delete", "keys/01890a5d-ac96-774b-bcce-b302099a8057", "manage"),
    ],
)
def test_each_operation_needs_its_scope(cast: Cast, method: str, path: str, scope: str):
    others = [one for one in ApiKey.Scope.values if one != scope]
    _, without = create_api_key(project=cast.project, name="without", scopes=others, actor=SYSTEM)
    _, only = create_api_key(project=cast.project, name="only", scopes=[scope], actor=SYSTEM)
    refused = getattr(cast, method)(path, key=without)
    assert refused.status_code == 403
    assert error_of(refused)["code"] == "insufficient_scope" and scope in error_of(refused)["message"]
    assert getattr(cast, method)(path, key=only).status_code not in (401, 403)
    assert getattr(cast, method)(path, key="").status_code == 401


def test_head_is_as_get_and_other_methods_are_405(cast: Cast):
    client = Client(headers=cast.auth())
    assert client.head(PATH).status_code == 200
    for method in ("put", "patch", "delete", "options"):
        refused = getattr(client, method)(PATH)
        assert refused.status_code == 405
        assert error_of(refused)["code"] == "method_not_allowed"
        assert "GET" in refused.headers["Allow"]


def test_the_last_use_is_noted_once_a_minute(cast: Cast):
    assert ApiKey.objects.get(pk=cast.api_key.pk).last_used is None
    assert status(f"Bearer {cast.key}") == 200
    first = ApiKey.objects.get(pk=cast.api_key.pk).last_used
    assert first is not None
    assert status(f"Bearer {cast.key}") == 200
    assert ApiKey.objects.get(pk=cast.api_key.pk).last_used == first
    ApiKey.objects.filter(pk=cast.api_key.pk).update(last_used=first - timedelta(minutes=2))
    assert status(f"Bearer {cast.key}") == 200
    last = ApiKey.objects.get(pk=cast.api_key.pk).last_used
    assert last is not None and last > first


# --- keys by REST ----------------------------------------------------------------------------------------
def test_a_key_is_made_listed_and_revoked(cast: Cast):
    expires = (timezone.now() + timedelta(days=1)).isoformat()
    body = {"name": "robot", "scopes": ["data:read"], "expires": expires}
    made = cast.post("keys", body, key=cast.manage_key)
    assert made.status_code == 201
    value = made.json()["key"]
    assert status(f"Bearer {value}") == 200
    listed = cast.get("keys", key=cast.manage_key)
    assert value not in listed.content.decode()
    [row] = [one for one in listed.json()["items"] if one["name"] == "robot"]
    assert row["scopes"] == ["data:read"] and row["last_used"] is not None and row["expires"]
    for _ in range(2):
        revoked = cast.delete(f"keys/{row['id']}", key=cast.manage_key)
        assert (revoked.status_code, revoked.json()["revoked"] is None) == (200, False)
    assert status(f"Bearer {value}") == 401
    assert cast.delete(f"keys/{row['id']}", key=cast.foreign_key).status_code == 404


def test_a_rotated_key_is_good_with_both_values_for_a_while(cast: Cast):
    path = f"keys/{cast.api_key.pk}/rotate"
    rotated = cast.post(path, {"grace_seconds": 60}, key=cast.manage_key)
    assert rotated.status_code == 200
    second = rotated.json()["key"]
    assert second != cast.key and second.split("_")[1] == cast.key.split("_")[1]
    assert [status(f"Bearer {key}") for key in (cast.key, second)] == [200, 200]
    ApiKey.objects.filter(pk=cast.api_key.pk).update(previous_until=timezone.now())
    assert [status(f"Bearer {key}") for key in (cast.key, second)] == [401, 200]
    third = cast.post(path, {"grace_seconds": 0}, key=cast.manage_key).json()["key"]
    assert [status(f"Bearer {key}") for key in (cast.key, second, third)] == [401, 401, 200]
    ApiKey.objects.filter(pk=cast.api_key.pk).update(revoked=timezone.now())
    refused = cast.post(path, key=cast.manage_key)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "key_not_usable")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"name": "x", "scopes": []}, 422, "scopes"),
        ({"name": "x", "scopes": ["root"]}, 422, "scopes"),
        ({"name": "", "scopes": ["generate"]}, 422, "name"),
        ({"name": "x" * 101, "scopes": ["generate"]}, 422, "name"),
        ({"name": "x", "scopes": ["generate"], "expires": "tomorrow"}, 422, "expires"),
        ({"name": "x", "scopes": ["generate"], "expires": "2020-01-01T00:00:00Z"}, 422, "expires"),
        ({"name": "x", "scopes": ["generate"], "prefix": "mine"}, 422, "prefix"),
        ({"name": "x", "scopes": ["feedback:write"]}, 403, None),
    ],
)
def test_keys_that_cannot_be_made(cast: Cast, body: dict[str, object], code: int, param: str | None):
    scopes = ["manage", "generate"]
    _, mine = create_api_key(project=cast.project, name="manager", scopes=scopes, actor=SYSTEM)
    refused = cast.post("keys", body, key=mine)
    assert (refused.status_code, error_of(refused)["param"]) == (code, param)


def test_a_key_by_the_command_line(cast: Cast):
    out = StringIO()
    command = ["--project", "kitchen", "--name", "robot", "--scopes", "data:read", "--days", "1"]
    call_command("create_key", *command, stdout=out)
    first = out.getvalue().strip()
    key = ApiKey.objects.get(name="robot")
    assert key.expires is not None and key.expires - timezone.now() < timedelta(days=1)
    out = StringIO()
    call_command("rotate_key", key.prefix, "--grace-hours", "0", stdout=out)
    assert [status(f"Bearer {value}") for value in (first, out.getvalue().strip())] == [401, 200]
    with pytest.raises(CommandError, match="There is no key nobody"):
        call_command("rotate_key", "nobody")
