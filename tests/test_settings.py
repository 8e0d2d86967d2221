"""What the environment says is what Django gets: secrets from files, and all of the database's URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from config.checks import check_settings
from config.environment import Environment
from tests.source import ROOT

pytestmark = pytest.mark.unit


def read_settings(tmp_path: Path, *names: str, **environment: str) -> dict[str, Any]:
    """Settings as a fresh process reads them from this environment alone."""
    code = "import json, sys; from config import settings as s; "
    code += "print(json.dumps({name: getattr(s, name) for name in sys.argv[1:]}))"
    base = {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=ROOT, env=base | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_secret_from_a_file_has_no_newline(tmp_path):
    """The engine strips its key as well: with the newline on one side only, nothing would be served."""
    file = tmp_path / "key"
    file.write_text("a key\n")
    found = read_settings(
        tmp_path, "ENGINE_API_KEY", "SECRET_KEY", ENGINE_API_KEY_FILE=str(file), SECRET_KEY_FILE=str(file)
    )
    assert found == {"ENGINE_API_KEY": "a key", "SECRET_KEY": "a key"}


def test_the_options_in_the_databases_url_are_kept(tmp_path):
    """`?sslmode=require` that is dropped is a password sent in the clear."""
    file = tmp_path / "url"
    file.write_text("postgres://ratchet:secret@db/ratchet?sslmode=require\n")
    database = read_settings(tmp_path, "DATABASES", DATABASE_URL_FILE=str(file))["DATABASES"]["default"]
    assert (database["NAME"], database["HOST"]) == ("ratchet", "db")
    assert database["OPTIONS"]["sslmode"] == "require"
    assert database["OPTIONS"]["pool"]["max_size"] == 16


def test_scripts_of_other_sites_are_asked_about_only_where_one_is_named(tmp_path):
    names = ("MIDDLEWARE", "CORS_ALLOW_ALL_ORIGINS", "CORS_ALLOWED_ORIGINS")
    for given, sites, any_site in (
        ("", [], False),
        ("https://a.example", ["https://a.example"], False),
        ("*", ["*"], True),
    ):
        found = read_settings(tmp_path, *names, CORS_ORIGINS=given)
        assert (found["CORS_ALLOWED_ORIGINS"], found["CORS_ALLOW_ALL_ORIGINS"]) == (sites, any_site)
        assert any("corsheaders" in one for one in found["MIDDLEWARE"]) is bool(sites)


@pytest.mark.parametrize(
    ("origins", "is_fine"),
    [
        (["*"], True),
        (
            ["https://app.example", "http://localhost:3000", "http://[::1]:3000", "chrome-extension://abcd"],
            True,
        ),
        (["app.example"], False),
        (["https://app.example/"], False),
        (["https://app.example", "*"], False),
        (["null"], False),
    ],
)
def test_an_origin_that_no_browser_sends_stops_the_start(settings, origins, is_fine):
    settings.CORS_ORIGINS = origins
    assert ("ratchet.E009" in {message.id for message in check_settings(None)}) is not is_fine


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DATABASE_POOL_SIZE", "many", "DATABASE_POOL_SIZE must be a whole number, got 'many'."),
        ("TOKEN_GAP_SECONDS", "30s", "TOKEN_GAP_SECONDS must be a number, got '30s'."),
        ("DEBUG", "maybe", "DEBUG must be true or false, got 'maybe'."),
        ("TRAIN_SLURM", "gpu", "TRAIN_SLURM must be pairs such as partition=gpu,account=lab, got 'gpu'."),
        ("LOG_LEVEL", "loud", "LOG_LEVEL must be one of"),
        ("SECRET_KEY_FILE", "/nowhere/key", "SECRET_KEY_FILE cannot be read: "),
        ("DATABASE_URL", "", "DATABASE_URL must be a URL such as postgres://"),
        ("DATABASE_URL", "mysql://ratchet:secret@db/ratchet", "DATABASE_URL must be a URL such as"),
        ("DATABASE_URL", "postgres://ratchet:secret@db", "DATABASE_URL must be a URL such as"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    env, variable = Environment(), name.removesuffix("_FILE")
    read = {
        "DATABASE_POOL_SIZE": env.int,
        "TOKEN_GAP_SECONDS": env.float,
        "DEBUG": env.bool,
        "TRAIN_SLURM": env.dict,
        "LOG_LEVEL": lambda variable: env.log_level(variable, "INFO"),
        "SECRET_KEY": env.str,
        "DATABASE_URL": lambda variable: env.database(variable, "sqlite://:memory:"),
    }
    with pytest.raises(ImproperlyConfigured) as raised:
        read[variable](variable)
    assert str(raised.value).startswith(sentence)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "check"),
    [
        ("ENGINE_URLS", [], "ratchet.E003"),
        ("RATE_LIMIT_KEY", -1, "ratchet.E005"),
        ("TRAIN_DEVICE", "gpu", "ratchet.E010"),
        ("BROKER_URL", "http://redis:6379", "ratchet.E010"),
        ("ALLOWED_HOSTS", ["https://ratchet.example"], "ratchet.E011"),
        ("ALLOWED_HOSTS", ["ratchet.example:443"], "ratchet.E011"),
    ],
)
def test_what_could_not_work_stops_the_start(settings, name, value, check):
    assert check not in {message.id for message in check_settings(None)}
    setattr(settings, name, value)
    assert check in {message.id for message in check_settings(None)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "unsafe", "check"),
    [
        ("config.asgi", {"SECRET_KEY": "insecure-development-key-never-serve-with-it"}, "ratchet.E001"),
        ("config.wsgi", {"DEBUG": "1"}, "ratchet.E002"),
        ("config.asgi", {"ENGINE_URLS": "http://10.0.0.9:8001", "ENGINE_API_KEY": ""}, "ratchet.E004"),
        ("config.wsgi", {"ENGINE_URLS": "http://10.0.0.9:8001", "ENGINE_API_KEY": ""}, "ratchet.E004"),
    ],
)
def test_a_server_refuses_an_unsafe_start(tmp_path, server, unsafe, check):
    safe = {"VAR_DIR": str(tmp_path), "SECRET_KEY": "x" * 50, "ALLOWED_HOSTS": "ratchet.example.org"}
    environment = {"PATH": os.environ["PATH"], **safe, **unsafe}
    done = subprocess.run(
        [sys.executable, "-c", f"import {server}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert check in done.stderr
