"""What every test shares: real services, Django on top of them, and fast passwords.

The environment must be set before Django's settings are read, so Django is set up here and not by
pytest-django, whose own hook would run before any conftest.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import services

ROOT = Path(__file__).resolve().parent.parent
BACKEND = services.prepare_environment()
os.environ.setdefault("MODEL_DIR", str(ROOT / "var/models/smollm2-135m-instruct"))
os.environ["SECRET_KEY"] = "a-key-for-tests-that-is-long-enough-for-every-check-of-django"
os.environ["ENGINE_API_KEY"] = "engine-key-for-tests"
os.environ.setdefault("LOG_LEVEL", "WARNING")
# Two workers on two cores: more threads each would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"

import django  # noqa: E402  the settings read what stands above

django.setup()
# A worker of pytest-xdist inherits the environment, and would read the settings before its VAR_DIR is set.
del os.environ["DJANGO_SETTINGS_MODULE"]


def pytest_report_header() -> str:
    return f"backend: {BACKEND}"


def pytest_unconfigure() -> None:
    services.stop()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """SQLite's test database is a file, as in life: another process can see it, and it locks the same."""
    from django.conf import settings

    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        database.setdefault("TEST", {})["NAME"] = str(settings.VAR_DIR / "test.sqlite3")
