"""Two real engines: the least loaded is asked, and one that is killed, frozen or empty costs no request."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings as django_settings

from inference.client import EngineClient
from inference.models import Completion, Replica
from inference.services.deployments import promote
from inference.services.reconciler import reconcile
from projects.services import SYSTEM
from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.processes import Process, engine_process, web_process
from tests.services import free_port

pytestmark = [pytest.mark.model, pytest.mark.slow]
ASKED = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "temperature": 0}


@pytest.fixture(scope="session")
def second_engine_of_session(django_db_setup: None, tiny_model: Path) -> Iterator[Process]:
    process = engine_process()
    process.name, process.url = "engine-2", f"http://127.0.0.1:{free_port()}"
    process.env = {**(process.env or {}), "ENGINE_PORT": process.url.rpartition(":")[2]}
    yield process
    process.stop()


@pytest.fixture
def engines(engine: Process, second_engine_of_session: Process, settings: Any) -> list[Process]:
    """Both are up, empty, and known to this process."""
    if not second_engine_of_session.answers():
        second_engine_of_session.kill()
        second_engine_of_session.start()
    settings.ENGINE_URLS = [str(engine.url), str(second_engine_of_session.url)]
    for url in settings.ENGINE_URLS:
        client = EngineClient(url, api_key=settings.ENGINE_API_KEY)
        for name, card in client.models().items():
            if not card.is_base:
                client.unload(name)
    return [engine, second_engine_of_session]


@pytest.fixture(scope="session")
def web_of_two(django_db_setup: None, second_engine_of_session: Process) -> Iterator[Process]:
    process = web_process(free_port())
    process.name = "web-of-two"
    urls = f"{django_settings.ENGINE_URLS[0]},{second_engine_of_session.url}"
    process.env = {"ENGINE_URLS": urls, "FIRST_TOKEN_SECONDS": "20", "TOKEN_GAP_SECONDS": "3"}
    yield process
    process.stop()


@pytest.fixture
def pair(transactional_db: None, engines: list[Process], web_of_two: Process) -> Process:
    """A web server that asks both engines."""
    if not web_of_two.answers():
        web_of_two.kill()
        web_of_two.start()
    return web_of_two


async def ask(web: Process, cast: Cast, count: int, **more: Any) -> list[tuple[float, httpx.Response]]:
    """So many requests at once: seconds that each took, and its answer."""
    async with httpx.AsyncClient(headers=cast.auth(), timeout=60, trust_env=False) as http:

        async def one() -> tuple[float, httpx.Response]:
            began = time.monotonic()
            body = {"model": "kitchen", "max_tokens": 8, **ASKED, **more}
            response = await http.post(f"{web.url}/v1/chat/completions", json=body)
            return time.monotonic() - began, response

        return list(await asyncio.gather(*(one() for _ in range(count))))


def statuses(answers: list[tuple[float, httpx.Response]]) -> set[int]:
    return {response.status_code for _, response in answers}


def answered(engine: Process) -> float:
    """Answers that an engine has finished, by its own count."""
    headers = {"Authorization": f"Bearer {django_settings.ENGINE_API_KEY}"}
    text = httpx.get(f"{engine.url}/metrics", headers=headers, trust_env=False).text
    return sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:request_success_total")
    )


def held(engine: Process) -> set[str]:
    client = EngineClient(str(engine.url), api_key=django_settings.ENGINE_API_KEY)
    return {name for name, card in client.models().items() if not card.is_base}


def until_asked(web: Process, cast: Cast, engine: Process) -> None:
    """Until the web server gives this engine something to do; each of its requests is answered meanwhile."""
    before, deadline = answered(engine), time.monotonic() + 60
    while answered(engine) == before:
        assert statuses(asyncio.run(ask(web, cast, 2))) == {200}
        assert time.monotonic() < deadline, "its breaker stays open"


def test_a_deploy_loads_on_all_and_then_flips(
    pair: Process, engines: list[Process], cast: Cast, tmp_path: Path
):
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="live")
    assert [held(engine) for engine in engines] == [{"kitchen-v2"}] * 2
    before = [answered(engine) for engine in engines]
    answers = asyncio.run(ask(pair, cast, 12))
    assert statuses(answers) == {200}
    assert {response.json()["model"] for _, response in answers} == {"kitchen@v2"}
    each = [answered(engine) - was for engine, was in zip(engines, before, strict=True)]
    assert sum(each) == 12
    assert min(each) >= 4, f"the least loaded is asked: {each}"


def test_a_killed_engine_costs_no_request_and_comes_back_filled(
    pair: Process, engines: list[Process], cast: Cast, tmp_path: Path
):
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="live")
    until_asked(pair, cast, engines[0])
    engines[0].kill()
    answers = asyncio.run(ask(pair, cast, 8))
    assert statuses(answers) == {200}
    assert max(took for took, _ in answers) < 15
    reconcile()
    rows = {row.url: row for row in Replica.objects.all()}
    assert [rows[str(engine.url)].is_healthy for engine in engines] == [False, True]
    engines[0].start()
    assert held(engines[0]) == set()
    before = answered(engines[0])
    assert statuses(asyncio.run(ask(pair, cast, 4))) == {200}
    assert answered(engines[0]) == before, "who lacks the version gets no traffic for it"
    reconcile()
    assert held(engines[0]) == {"kitchen-v2"}
    row = Replica.objects.get(url=engines[0].url)
    assert (row.is_healthy, row.missing) == (True, [])
    until_asked(pair, cast, engines[0])


def test_a_frozen_engine_costs_its_first_requests_seconds_and_the_others_nothing(
    pair: Process, engines: list[Process], cast: Cast
):
    until_asked(pair, cast, engines[0])
    frozen = engines[0].running
    assert frozen is not None
    frozen.send_signal(signal.SIGSTOP)
    try:
        first = asyncio.run(ask(pair, cast, 4))
        assert statuses(first) == {200}, "asked again elsewhere"
        assert max(took for took, _ in first) < 25, "5 s to accept, and a moment"
        later = asyncio.run(ask(pair, cast, 6))
        assert statuses(later) == {200}
        assert max(took for took, _ in later) < 5, "its breaker is open"
        began = time.monotonic()
        reconcile()
        assert time.monotonic() - began < 15
        assert not Replica.objects.get(url=engines[0].url).is_healthy, "seen and shown"
        assert Replica.objects.get(url=engines[1].url).is_healthy
    finally:
        frozen.send_signal(signal.SIGCONT)
    reconcile()
    until_asked(pair, cast, engines[0])
    assert set(Completion.objects.values_list("state", flat=True)) == {"finished"}


def test_an_engine_that_freezes_in_mid_answer(pair: Process, engines: list[Process], cast: Cast):
    """After the first token no second try: the partial text is kept, at the gap's deadline of 3 s."""
    until_asked(pair, cast, engines[0])
    Completion.objects.all().delete()
    body = {"model": "kitchen", "max_tokens": 400, "stream": True, **ASKED}
    url = f"{pair.url}/v1/chat/completions"
    frozen = engines[0].running
    assert frozen is not None
    try:
        with httpx.stream(
            "POST", url, json=body, headers=cast.auth(), timeout=30, trust_env=False
        ) as response:
            lines = response.iter_lines()
            for _ in range(6):
                next(lines)
            for engine in engines:  # whichever makes it
                assert engine.running is not None
                engine.running.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            rest = "\n".join(lines)
            took = time.monotonic() - began
        assert '"code": "engine_failed"' in rest.replace('":"', '": "')
        assert "[DONE]" not in rest
        assert 1.5 < took < 25
        row = Completion.objects.get()
        assert (row.state, row.is_judgeable) == ("failed", False)
        assert row.text
    finally:
        for engine in engines:
            if engine.running is not None:
                engine.running.send_signal(signal.SIGCONT)
