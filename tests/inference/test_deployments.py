"""What serves changes by one row: promotion, canary, rollback, and what refuses them."""

from __future__ import annotations

import json
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.db import connections

from inference.client import EngineClient
from inference.models import Completion, Deployment, Version
from inference.services import reconciler
from inference.services.completions import sample_completion
from inference.services.deployments import (
    DeploymentConflict,
    NoWayBack,
    PromotionRefused,
    current_deployment,
    promote,
    rollback,
)
from inference.services.reconciler import reconcile
from inference.services.versions import resolve_version
from projects.errors import Invalid, Unavailable
from projects.models import AuditEvent
from projects.services import SYSTEM, Actor
from tests.cast import Cast
from tests.inference.adapters import new_version
from tests.processes import Process

pytestmark = pytest.mark.model


@pytest.fixture
def client(engine: Process) -> EngineClient:
    """The real engine, emptied of what earlier tests loaded into it."""
    client = EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY)
    for card in client.models().values():
        if not card.is_base:
            client.unload(card.name)
    return client


def test_a_promoted_version_answers(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    version = new_version(cast.project, tmp_path)
    actor = Actor(user=cast.ada)
    made = promote(
        project=cast.project, version=version, actor=actor, reason="it won", detail={"win_rate": 0.8}
    )
    assert (made.number, made.kind, made.champion, made.previous) == (2, "promote", version, cast.v1)
    assert made.detail["win_rate"] == 0.8
    assert made.detail["load_ms"] > 0
    assert current_deployment(cast.project) == made
    assert resolve_version(project=cast.project, model="kitchen", sticky="x") == version
    assert client.models()["kitchen-v2"].digest == version.digest
    answer = sample_completion(
        project=cast.project, prompt=cast.prompt(), version=version, sampling={"max_tokens": 4}
    )
    assert (answer.version, answer.version_label, answer.state) == (version, "kitchen@v2", "finished")
    event = AuditEvent.objects.get(action="deployment.promote")
    assert (event.user, event.detail["reason"]) == (cast.ada, "it won")
    version.refresh_from_db()
    assert not version.is_candidate, "it is held because it serves"


def test_an_engine_that_freezes_while_it_loads_holds_nobody_up(
    cast: Cast, client: EngineClient, engine: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = new_version(cast.project, tmp_path)
    assert engine.running is not None
    load, freeze = EngineClient.load, partial(engine.running.send_signal, signal.SIGSTOP)

    def frozen_load(*args: Any, **kwargs: Any) -> None:
        freeze()
        load(*args, **kwargs)

    monkeypatch.setattr(EngineClient, "load", frozen_load)
    monkeypatch.setattr(reconciler, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(reconciler, "LOOK_SECONDS", 2.0)
    try:
        with pytest.raises(Unavailable, match="fell silent while it was loading; nothing was changed"):
            promote(project=cast.project, version=version, actor=SYSTEM, reason="now")
        assert current_deployment(cast.project).number == 1
    finally:
        engine.running.send_signal(signal.SIGCONT)
    monkeypatch.undo()
    assert promote(project=cast.project, version=version, actor=SYSTEM, reason="again").number == 2


def test_back_and_forth_takes_no_load(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="forward")
    back = rollback(project=cast.project, actor=SYSTEM, reason="it was worse")
    assert (back.kind, back.champion, back.previous, back.number) == ("rollback", cast.v1, version, 3)
    forth = rollback(project=cast.project, actor=SYSTEM, reason="it was not")
    assert (forth.champion, forth.previous, forth.detail["load_ms"]) == (version, cast.v1, 0)


def test_a_rollback_loads_what_no_engine_holds(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    second, third = (new_version(cast.project, tmp_path, seed=seed) for seed in (2, 3))
    promote(project=cast.project, version=second, actor=SYSTEM, reason="2")
    promote(project=cast.project, version=third, actor=SYSTEM, reason="3")
    client.unload("kitchen-v2")
    made = rollback(project=cast.project, actor=SYSTEM, reason="back to 2")
    assert made.champion == second
    assert made.detail["load_ms"] > 0
    assert "kitchen-v2" in client.models()


def test_nothing_before_the_first(cast: Cast) -> None:
    with pytest.raises(NoWayBack, match="has served nothing before kitchen@v1") as refused:
        rollback(project=cast.project, actor=SYSTEM, reason="?")
    assert refused.value.code == "no_previous_version"


def test_a_canary_serves_its_share_and_is_withdrawn(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="try", share=0.25)
    keys = [f"conversation {number}" for number in range(400)]

    def served() -> dict[str, int]:
        return {
            key: resolve_version(project=cast.project, model="kitchen", sticky=key).number for key in keys
        }

    first = served()
    assert 70 < list(first.values()).count(2) < 130
    assert served() == first, "a conversation stays where it is"
    promote(project=cast.project, version=version, actor=SYSTEM, reason="more", share=0.5)
    wider = served()
    assert all(wider[key] == 2 for key in keys if first[key] == 2), "a wider share takes nobody away"
    back = rollback(project=cast.project, actor=SYSTEM, reason="withdraw")
    assert (back.champion, back.canary, back.previous) == (cast.v1, None, None)
    assert set(served().values()) == {1}
    for share in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(Invalid):
            promote(project=cast.project, version=version, actor=SYSTEM, reason="?", share=share)


def test_one_flipped_byte_is_refused(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    version = new_version(cast.project, tmp_path)
    weights = version.folder / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(PromotionRefused, match="not the file that the manifest describes"):
        promote(project=cast.project, version=version, actor=SYSTEM, reason="?")
    assert current_deployment(cast.project).champion == cast.v1
    version.refresh_from_db()
    assert (version.status, version.is_candidate) == ("damaged", False)
    assert "kitchen-v2" not in client.models()
    weights.write_bytes(good)  # from a backup
    promote(project=cast.project, version=version, actor=SYSTEM, reason="mended")
    version.refresh_from_db()
    assert version.status == "available"


def test_what_the_engine_refuses_changes_nothing(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    nothing = new_version(cast.project, tmp_path, size=0.0)  # an adapter that changes no weight
    with pytest.raises(PromotionRefused, match="changes nothing"):
        promote(project=cast.project, version=nothing, actor=SYSTEM, reason="?")
    endless = new_version(cast.project, tmp_path, size=float("inf"))
    with pytest.raises(PromotionRefused, match="not finite"):
        promote(project=cast.project, version=endless, actor=SYSTEM, reason="?")
    foreign = new_version(cast.garden, tmp_path)
    with pytest.raises(PromotionRefused, match="another project"):
        promote(project=cast.project, version=foreign, actor=SYSTEM, reason="?")
    with pytest.raises(PromotionRefused, match="champion already") as refused:
        promote(project=cast.project, version=cast.v1, actor=SYSTEM, reason="?")
    assert refused.value.code == "already_champion"
    assert Deployment.objects.filter(project=cast.project).count() == 1
    assert not Version.objects.filter(is_candidate=True).exists()


def test_without_an_engine_nothing_changes(cast: Cast, tmp_path: Path, settings: Any) -> None:
    settings.ENGINE_URLS = ["http://127.0.0.1:9"]
    version = new_version(cast.project, tmp_path)
    with pytest.raises(Unavailable) as raised:
        promote(project=cast.project, version=version, actor=SYSTEM, reason="?")
    assert (raised.value.code, raised.value.retry_after) == ("engine_unavailable", 2)
    assert current_deployment(cast.project).champion == cast.v1


@pytest.mark.django_db(transaction=True)
def test_two_promotions_at_once_and_one_wins(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    versions = [new_version(cast.project, tmp_path, seed=seed) for seed in (2, 3)]
    outcomes: list[object] = []
    together = threading.Barrier(2)

    def go(version: Version) -> None:
        try:
            together.wait()
            outcomes.append(promote(project=cast.project, version=version, actor=SYSTEM, reason="race"))
        except DeploymentConflict as problem:
            outcomes.append(problem)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (conflict,) = [outcome for outcome in outcomes if isinstance(outcome, DeploymentConflict)]
    (made,) = [outcome for outcome in outcomes if isinstance(outcome, Deployment)]
    assert (conflict.status, conflict.code) == (409, "deployment_conflict")
    assert current_deployment(cast.project) == made
    assert not Version.objects.filter(is_candidate=True).exists()


def test_the_version_before_the_previous_is_let_go(cast: Cast, client: EngineClient, tmp_path: Path) -> None:
    for seed in (2, 3, 4):
        version = new_version(cast.project, tmp_path, seed=seed)
        promote(project=cast.project, version=version, actor=SYSTEM, reason="next")
    assert {"kitchen-v2", "kitchen-v3", "kitchen-v4"} <= set(client.models())
    reconcile()
    names = set(client.models())
    assert {"kitchen-v3", "kitchen-v4"} <= names
    assert "kitchen-v2" not in names


def test_traffic_feels_no_swap(cast: Cast, client: EngineClient, web: Process, tmp_path: Path) -> None:
    """Streams go on while versions are promoted, rolled back and let go; none fails, none is mixed."""
    versions = [new_version(cast.project, tmp_path, seed=seed) for seed in (2, 3, 4)]
    body = {
        "model": "kitchen",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "max_tokens": 24,
        "stream": True,
    }
    url, headers = f"{web.url}/v1/chat/completions", cast.auth()
    is_over, seen, broken = threading.Event(), list[str](), list[str]()

    def talk() -> None:
        with httpx.Client(headers=headers, timeout=60, trust_env=False) as http:
            while not is_over.is_set():
                response = http.post(url, json=body)
                frames = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
                names = {json.loads(frame).get("model") for frame in frames[:-1]}
                if response.status_code != 200 or frames[-1] != "[DONE]" or len(names) != 1:
                    broken.append(response.text)
                seen.append(response.headers.get("X-Ratchet-Version", ""))

    def asked_now() -> str:
        response = httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)
        return response.headers["X-Ratchet-Version"]

    clients = [threading.Thread(target=talk) for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        for version in versions:
            promote(project=cast.project, version=version, actor=SYSTEM, reason="next")
            assert asked_now() == version.label, "the next request after the commit"
            reconcile()
        rollback(project=cast.project, actor=SYSTEM, reason="back")
        assert asked_now() == versions[1].label
    finally:
        is_over.set()
        for thread in clients:
            thread.join()
    assert broken == []
    assert len(seen) > 10
    assert len(set(seen)) > 1
    assert set(Completion.objects.values_list("state", flat=True)) == {"finished"}
