"""A page of the system's Chromium on the real web server. Any error in its console fails the test.

A test that provokes an error on purpose says so first: `console.allow("503")`. Requests to anywhere but the
web server fail it as well: everything that a page shows is served by ourselves.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.browser.cast import make_people
from tests.cast import Cast
from tests.processes import Process

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


def wait_for_quiet(seconds: float = 5) -> None:
    """Until the web server is done with what the page asked: emptying tables under it would deadlock."""
    if connection.vendor != "postgresql":
        return
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(f"{busy} AND pid <> pg_backend_pid()")
            if cursor.fetchone() == (0,):
                return
        time.sleep(0.05)


class Console:
    """What a page complained about."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.allowed: list[str] = []

    def allow(self, part: str) -> None:
        """Errors with `part` in them are what this test is about."""
        self.allowed.append(part)

    def unexpected(self) -> list[str]:
        return [error for error in self.errors if not any(part in error for part in self.allowed)]

    def watch(self, page: Page, home: str) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        page.on("request", lambda request: self._see(request, home))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _see(self, request: Request, home: str) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc != urlsplit(home).netloc:
            self.errors.append(f"request to elsewhere: {request.url}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "Chromium is missing: apt-get install chromium"
    # Playwright's synchronous calls hold an event loop open, and Django would refuse the tests' own queries.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def people(transactional_db: None) -> Cast:
    """Ada manages the project `kitchen`, Bob rates, Carol reviews, Eve is from `garden`."""
    return make_people()


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def context(chromium: Browser, web: Process) -> Iterator[BrowserContext]:
    """A fresh browser profile; addresses may be written as paths."""
    context = chromium.new_context(base_url=web.url)
    context.set_default_timeout(10_000)
    yield context
    context.close()
    wait_for_quiet()


@pytest.fixture
def page(context: BrowserContext, console: Console, web: Process) -> Iterator[Page]:
    page = context.new_page()
    console.watch(page, str(web.url))
    yield page
    assert console.unexpected() == []


@pytest.fixture
def sign_in(context: BrowserContext, web: Process) -> Callable[[object], None]:
    """`sign_in(user)`: the session's cookie, without the form. The form has its own test."""
    from django.test import Client

    def sign_in(user: object) -> None:
        client = Client()
        client.force_login(user)  # type: ignore[arg-type]  # django-stubs wants its own user class
        cookie = client.cookies["sessionid"].value
        context.add_cookies([{"name": "sessionid", "value": cookie, "url": str(web.url)}])

    return sign_in
