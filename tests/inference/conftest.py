"""Two stub engines and a web server that asks them, with short deadlines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import services
from tests.inference.stub_engine import StubEngine
from tests.processes import Process, web_process

SHORT = {
    "FIRST_TOKEN_SECONDS": "2.5",
    "TOKEN_GAP_SECONDS": "1.5",
    "ANSWER_SECONDS": "5",
    "READERLESS_SECONDS": "1",
    "MAX_STREAMS": "60",
    "DATABASE_POOL_SIZE": "12",  # three for streams
    "PGAPPNAME": "fault-web",  # by which its connections are known
}


@pytest.fixture(scope="session")
def stubs_of_session() -> Iterator[tuple[StubEngine, StubEngine]]:
    first, second = StubEngine("A").start(), StubEngine("B").start()
    yield first, second
    first.stop()
    second.stop()


@pytest.fixture
def stubs(stubs_of_session: tuple[StubEngine, StubEngine]) -> tuple[StubEngine, StubEngine]:
    for stub in stubs_of_session:
        stub.asked.clear()
        stub.cancelled = 0
    return stubs_of_session


@pytest.fixture(scope="session")
def fault_web_of_session(
    django_db_setup: None, stubs_of_session: tuple[StubEngine, StubEngine]
) -> Iterator[Process]:
    process = web_process(services.free_port())
    process.name = "fault-web"
    process.env = {**SHORT, "ENGINE_URLS": ",".join(stub.url for stub in stubs_of_session)}
    yield process
    process.stop()


@pytest.fixture
def fault_web(
    transactional_db: None, stubs: tuple[StubEngine, StubEngine], fault_web_of_session: Process
) -> Process:
    """A real web server with two stub engines."""
    if not fault_web_of_session.answers():
        fault_web_of_session.kill()
        fault_web_of_session.start()
    return fault_web_of_session
