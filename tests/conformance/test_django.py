"""Django on the engine under test: versions are promoted, answer, and are taken back, and nothing differs but
what stands at ENGINE_URLS.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from inference.client import EngineClient
from inference.models import Completion, Replica
from inference.services.deployments import PromotionRefused, current_deployment, promote, rollback
from inference.services.reconciler import reconcile
from projects.services import SYSTEM
from tests.cast import Cast
from tests.conformance.conftest import USER, Target
from tests.inference.adapters import new_version
from tests.processes import Process

pytestmark = pytest.mark.model


def ask(web: Process, cast: Cast, **body: Any) -> httpx.Response:
    body = {"model": "kitchen", "messages": USER, "temperature": 0, "max_tokens": 16, **body}
    response = httpx.post(
        f"{web.url}/v1/chat/completions", json=body, headers=cast.auth(), timeout=60, trust_env=False
    )
    assert response.status_code == 200, response.text
    return response


def said(web: Process, cast: Cast, **body: Any) -> tuple[str, str]:
    """Who answered, and what."""
    answer = ask(web, cast, **body).json()
    return answer["model"], answer["choices"][0]["message"]["content"]


def test_promote_answer_roll_back(target: Target, web: Process, cast: Cast, tmp_path: Path) -> None:
    second, third = (new_version(cast.project, tmp_path, seed=seed) for seed in (2, 3))
    name, of_base = said(web, cast)
    assert name == "kitchen@v1"
    made = promote(project=cast.project, version=second, actor=SYSTEM, reason="it won")
    assert made.champion == second
    name, of_second = said(web, cast)
    assert name == "kitchen@v2"
    promote(project=cast.project, version=third, actor=SYSTEM, reason="it won too")
    name, of_third = said(web, cast)
    assert name == "kitchen@v3"
    assert len({of_base, of_second, of_third}) == 3
    assert said(web, cast, model="kitchen@v2") == ("kitchen@v2", of_second)

    rollback(project=cast.project, actor=SYSTEM, reason="it was worse")
    assert said(web, cast) == ("kitchen@v2", of_second)
    promote(project=cast.project, version=cast.v1, actor=SYSTEM, reason="back to the base")
    assert said(web, cast) == ("kitchen@v1", of_base)
    (replica,) = reconcile()
    assert (replica.is_healthy, replica.missing, replica.message) == (True, [], "")
    assert set(target.cards()) == {target.base, "kitchen-v2"}, "the way back is held, v3 is let go"

    rows = list(Completion.objects.order_by("created"))
    assert [row.state for row in rows] == ["finished"] * len(rows)
    assert {row.finish_reason for row in rows} <= {"length", "stop"}
    assert all(row.tokens_in and row.tokens_out and row.ttft_ms and row.total_ms for row in rows)


def test_a_stream_through_django(target: Target, web: Process, cast: Cast, tmp_path: Path) -> None:
    promote(project=cast.project, version=new_version(cast.project, tmp_path), actor=SYSTEM, reason="live")
    whole = ask(web, cast).json()
    response = ask(web, cast, stream=True, stream_options={"include_usage": True})
    *chunks, done = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    *parts, last = [json.loads(chunk) for chunk in chunks]
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert text == whole["choices"][0]["message"]["content"]
    assert last["usage"] == whole["usage"]


def test_several_greedy_answers(target: Target, web: Process, cast: Cast) -> None:
    choices = ask(web, cast, n=3).json()["choices"]
    assert {choice["message"]["content"] for choice in choices} == {said(web, cast)[1]}
    assert len(choices) == 3


def test_other_weights_under_our_name_are_replaced(
    target: Target, web: Process, cast: Cast, adapters: list[Path], tmp_path: Path
) -> None:
    """Of a project of the same slug, in a database that is gone."""
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="live")
    ours = said(web, cast)
    assert target.unload("kitchen-v2").status_code == 200
    assert target.load("kitchen-v2", adapters[1]).status_code == 200
    assert said(web, cast) != ours
    (replica,) = reconcile()
    assert (replica.missing, replica.message) == ([], "")
    assert said(web, cast) == ours


def test_damaged_files_never_reach_it(target: Target, cast: Cast, tmp_path: Path) -> None:
    version = new_version(cast.project, tmp_path)
    weights = version.folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PromotionRefused, match="damaged"):
        promote(project=cast.project, version=version, actor=SYSTEM, reason="?")
    assert current_deployment(cast.project).champion == cast.v1
    assert set(target.cards()) == {target.base}


def test_an_engine_that_starts_again_is_refilled(
    target: Target, engine: Process, web: Process, cast: Cast, tmp_path: Path
) -> None:
    version = new_version(cast.project, tmp_path)
    promote(project=cast.project, version=version, actor=SYSTEM, reason="live")
    before = said(web, cast)
    engine.kill()
    (replica,) = reconcile()
    assert not replica.is_healthy
    engine.start()
    assert set(target.cards()) == {target.base}
    reconcile()
    assert Replica.objects.get().missing == []
    assert said(web, cast) == before
    assert EngineClient(settings.ENGINE_URLS[0], api_key=settings.ENGINE_API_KEY).is_healthy()
