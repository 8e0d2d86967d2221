"""What every test shares: real services, Django on top of them, fast passwords, and real processes.

The environment must be set before Django's settings are read, so Django is set up here and not by
pytest-django, whose own hook would run before any conftest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import SyncToAsync

from tests import services

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("browser", "conformance", "inference/engine", "training/recipes")
NOT_FAST = ("unit", "slow", "model", "browser")
BACKEND = services.prepare_environment()
# Under VAR_DIR, whatever the shell says: what tests register must not lie among the versions of `make up`.
os.environ["ARTIFACTS_DIR"] = f"{os.environ['VAR_DIR']}/artifacts"
os.environ["MODEL_DIR"] = f"{os.environ['VAR_DIR']}/models/tiny"  # the `tiny_model` fixture builds it
os.environ["ENGINE_URLS"] = f"http://127.0.0.1:{services.free_port()}"  # nobody answers but `engine`
os.environ["ENGINE_API_KEY"] = "engine-key-for-tests"
os.environ["SECRET_KEY"] = "a-key-for-tests-that-is-long-enough-for-every-check-of-django"
os.environ["CORS_ORIGINS"] = "https://app.example"
os.environ.setdefault("LOG_LEVEL", "WARNING")
# Two workers on two cores: more threads each would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"

import django  # noqa: E402  the settings read what stands above
import hypothesis  # noqa: E402  beside it

django.setup()
# How long an example takes says nothing of us on a machine that does five other things.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
# A worker of pytest-xdist inherits the environment, and would read the settings before its VAR_DIR is set.
del os.environ["DJANGO_SETTINGS_MODULE"]

from django.conf import settings as django_settings  # noqa: E402
from django.contrib.auth.hashers import PBKDF2PasswordHasher  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import TransactionTestCase  # noqa: E402

from projects.middleware import StaticFilesMiddleware  # noqa: E402
from tests.emptying import empty_tables  # noqa: E402
from tests.processes import IS_VLLM, Process, engine_process, web_process  # noqa: E402


class OneRoundHasher(PBKDF2PasswordHasher):
    """A password in microseconds. The rounds stand in the hash, so a real server can check it as well."""

    iterations = 1


pytest_plugins = ["tests.cast"]  # ada, bob, carol and eve


def pytest_report_header() -> str:
    return f"backend: {BACKEND}, engine: {'vLLM' if IS_VLLM else 'ours'}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast suite does not read these folders (see the Makefile): a fast test there would never run."""
    heavy = [ROOT / "tests" / name for name in HEAVY]
    for item in items:
        is_heavy = any(item.path.is_relative_to(folder) for folder in heavy)
        if is_heavy and not any(item.get_closest_marker(name) for name in NOT_FAST):
            raise pytest.UsageError(f"{item.nodeid} is fast, and lies where the fast suite does not look")


def pytest_unconfigure() -> None:
    services.stop()


@pytest.fixture(scope="session", autouse=True)
def fast_passwords() -> None:
    django_settings.PASSWORD_HASHERS = ["tests.conftest.OneRoundHasher", *django_settings.PASSWORD_HASHERS]


@pytest.fixture(scope="session", autouse=True)
def one_look_at_static_files() -> Iterator[None]:
    """Every test client builds the middleware anew; what lies beside the code is looked up once a session."""
    look = StaticFilesMiddleware.add_files_from_finders
    found: dict[str, Any] = {}

    def look_once(self: StaticFilesMiddleware) -> None:
        if not found:
            look(self)
            found.update(self.files)
        self.files.update(found)

    StaticFilesMiddleware.add_files_from_finders = look_once
    yield
    StaticFilesMiddleware.add_files_from_finders = look


@pytest.fixture(scope="session", autouse=True)
def tables_are_emptied_quickly() -> None:
    TransactionTestCase._fixture_teardown = empty_tables  # type: ignore[attr-defined]  # not in its stubs


@pytest.fixture(autouse=True)
def no_thread_keeps_a_connection() -> Iterator[None]:
    """Under AsyncClient, Django's synchronous parts run in one thread of the process, which outlives them."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """SQLite's test database is a file, as in life: another process can see it, and it locks the same. On
    PostgreSQL a test waits longer for a deadlock than the processes that it started.
    """
    database = django_settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        database.setdefault("TEST", {})["NAME"] = str(django_settings.VAR_DIR / "test.sqlite3")
    else:
        # Where emptying the tables meets a late request of a web process, that one gives way.
        database["OPTIONS"]["options"] = "-c deadlock_timeout=10s"


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The tiny random model at MODEL_DIR. Built by a child, so that torch stays out of Django's process."""
    folder = Path(django_settings.MODEL_DIR)
    if not folder.exists():
        heads = 2 if IS_VLLM else 4  # vLLM has kernels for heads of 32 numbers and more
        build = f"from tests.tiny import *; build_tiny_model(Path({str(folder)!r}), heads={heads})"
        subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The default model. It is never skipped: `make test` has obtained it."""
    folder = ROOT / "var/models/smollm2-135m-instruct"
    assert (folder / "manifest.json").is_file(), "the default model is missing: make model"
    return folder


@pytest.fixture
def engine(tiny_model: Path, engine_of_session: Process) -> Process:
    """A real engine with the tiny model at ENGINE_URLS, alive at the start of each test."""
    if not engine_of_session.answers():
        engine_of_session.kill()
        engine_of_session.start()
    return engine_of_session


@pytest.fixture
def no_engine(settings: Any) -> None:
    """Nobody answers, though an earlier test may have left the session's engine running."""
    settings.ENGINE_URLS = [f"http://127.0.0.1:{services.free_port()}"]


@pytest.fixture(scope="session")
def engine_of_session(django_db_setup: None) -> Iterator[Process]:
    process = engine_process()
    yield process
    process.stop()


@pytest.fixture
def web(transactional_db: None, web_of_session: Process) -> Process:
    """A real web server on the test database, alive at the start of each test; `web.url` is its address."""
    if not web_of_session.answers():
        web_of_session.kill()
        web_of_session.start()
    return web_of_session


@pytest.fixture(scope="session")
def web_of_session(django_db_setup: None) -> Iterator[Process]:
    process = web_process(services.free_port())
    yield process
    process.stop()
