"""kill -9 of a web server: its answers get an end, and a swap in the making is either done or not begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.utils import timezone

from inference.client import EngineClient
from inference.models import Completion, Deployment, Lease
from inference.services.completions import REAP_SECONDS, reap_completions
from inference.services.deployments import current_deployment, promote
from inference.services.reconciler import LEASE, desired_versions, reconcile
from projects.services import SYSTEM
from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.inference.stub_engine import StubEngine
from tests.processes import Process, web_process
from tests.services import free_port

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def doomed(cast: Cast) -> Iterator[Process]:
    process = web_process(free_port())
    process.name = "doomed-web"
    yield process
    process.kill()


def test_its_answers_are_closed_with_what_they_said(
    cast: Cast, doomed: Process, stubs: tuple[StubEngine, StubEngine]
) -> None:
    doomed.env = {"ENGINE_URLS": stubs[0].url}
    doomed.start()
    body = {"model": "kitchen", "messages": [{"role": "user", "content": "Please: slow"}], "stream": True}
    url = f"{doomed.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=cast.auth(), timeout=30, trust_env=False) as response:
        said = response.iter_lines()
        deadline = time.monotonic() + 15
        while not Completion.objects.exclude(text="").exists():
            assert next(said) is not None
            assert time.monotonic() < deadline, "the text so far is written down now and then"
        doomed.kill()
    row = Completion.objects.get()
    assert row.state == "running"
    assert reap_completions() == 0, "it may be alive"
    silent = timezone.now() - timedelta(seconds=REAP_SECONDS + 1)
    Completion.objects.update(touched=silent)
    assert reap_completions() == 1
    row.refresh_from_db()
    assert (row.state, row.is_judgeable) == ("failed", False)
    assert row.text.startswith("word0 word1 ")


@pytest.mark.model
def test_the_database_is_right_and_the_engine_follows_it(
    cast: Cast, doomed: Process, engine: Process, tmp_path: Path
) -> None:
    client = EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY)
    first = new_version(cast.project, tmp_path, seed=1)
    promote(project=cast.project, version=first, actor=SYSTEM, reason="first")
    for seed, wait in ((2, 0.0), (3, 0.2)):  # before and about the moment of the new row
        version = new_version(cast.project, tmp_path, seed=seed)
        doomed.start()
        swap = threading.Thread(target=_swap, args=(doomed, cast, version.label))
        swap.start()
        deadline = time.monotonic() + 60
        while version.engine_name not in client.models():
            assert time.monotonic() < deadline
        time.sleep(wait)
        doomed.kill()
        swap.join()
        Lease.objects.filter(name=LEASE).update(until=timezone.now() - timedelta(seconds=1))  # it lapses
        reconcile()
        champion = current_deployment(cast.project).champion
        assert champion in (first, version)
        assert Deployment.objects.filter(project=cast.project, champion=version).count() <= 1
        held = {name for name, card in client.models().items() if not card.is_base}
        assert champion.engine_name in held
        assert held == set(desired_versions()), "what nobody deployed is let go"
    again = new_version(cast.project, tmp_path, seed=4)
    promote(project=cast.project, version=again, actor=SYSTEM, reason="nothing stands in the way")
    assert current_deployment(cast.project).champion == again


def _swap(web: Process, cast: Cast, label: str) -> None:
    headers = {"Authorization": f"Bearer {cast.manage_key}"}
    body = {"version": label, "reason": "killed on the way", "override": True}
    try:
        httpx.post(f"{web.url}/api/v1/deployments", json=body, headers=headers, timeout=30, trust_env=False)
    except httpx.HTTPError:
        return  # that it breaks off is the point
