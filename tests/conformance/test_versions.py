"""Adapters come and go beside the traffic, and a name answers with the weights that were loaded under it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.conf import settings
from safetensors.numpy import load_file, save_file

from inference.artifact import write_manifest
from inference.client import EngineClient, EngineRefused, ModelMissing, error_of
from tests.conformance.conftest import FIXED, USER, Target, at_once
from tests.inference.adapters import build_adapter

pytestmark = pytest.mark.model
# Longer than a block of vLLM's prefix cache on a CPU (128 tokens), so that there is something to be stale.
LONG = [{"role": "user", "content": "Why is the sky blue, and why is it red in the evening? " * 8}]


def test_a_card_for_each_name(target: Target, adapters: list[Path]) -> None:
    assert set(target.cards()) == {target.base}
    assert target.load("kitchen-v2", adapters[0]).status_code == 200
    cards = target.cards()
    assert set(cards) == {target.base, "kitchen-v2"}
    assert {card["object"] for card in cards.values()} == {"model"}
    assert cards[target.base]["parent"] is None
    assert cards["kitchen-v2"]["parent"] == target.base
    assert Path(cards["kitchen-v2"]["root"]).resolve() == adapters[0].resolve()


def test_loaded_served_unloaded(target: Target, adapters: list[Path]) -> None:
    base = target.text()
    assert target.load("kitchen-v2", adapters[0]).status_code == 200
    answer = target.whole("kitchen-v2", **FIXED)
    assert answer["model"] == "kitchen-v2"
    assert answer["choices"][0]["message"]["content"] != base
    assert {chunk["model"] for chunk in target.stream("kitchen-v2", **FIXED)} == {"kitchen-v2"}
    assert target.text() == base

    assert target.unload("kitchen-v2").status_code == 200
    assert set(target.cards()) == {target.base}
    gone = target.chat("kitchen-v2", **FIXED)
    assert gone.status_code == 404
    assert type(error_of(gone)) is ModelMissing
    assert target.unload("kitchen-v2").status_code == 404
    assert target.text() == base


def test_two_versions_at_once(target: Target, adapters: list[Path]) -> None:
    names = [target.base, "kitchen-v2", "kitchen-v3"]
    for name, folder in zip(names[1:], adapters, strict=False):
        assert target.load(name, folder).status_code == 200
    alone = [target.text(name) for name in names]
    assert len(set(alone)) == 3
    assert at_once(*(lambda name=name: target.text(name) for name in names)) == alone


def test_no_prompt_is_answered_from_anothers_cache(target: Target, adapters: list[Path]) -> None:
    """The same long prompt again and again, while versions come, go and take a name that was another's."""

    def ask(name: str) -> str:
        return target.text(name, messages=LONG)

    base = ask(target.base)
    truth = []
    for number, folder in enumerate(adapters):
        assert target.load(f"alone-{number}", folder).status_code == 200
        truth.append(ask(f"alone-{number}"))
        assert target.unload(f"alone-{number}").status_code == 200
    assert len({base, *truth}) == 4

    target.load("kitchen-v2", adapters[0])
    target.load("kitchen-v3", adapters[1])
    for _ in range(2):
        answers = [ask(name) for name in (target.base, "kitchen-v2", "kitchen-v3")]
        assert answers == [base, truth[0], truth[1]]
    target.unload("kitchen-v2")
    assert [ask(target.base), ask("kitchen-v3")] == [base, truth[1]]
    # As the reconciler does when it finds other weights under a name of ours.
    target.load("kitchen-v2", adapters[2])
    assert [ask(name) for name in (target.base, "kitchen-v2", "kitchen-v3")] == [base, truth[2], truth[1]]


def test_a_name_keeps_its_weights_when_it_is_loaded_again(target: Target, adapters: list[Path]) -> None:
    """Ours takes the same weights twice as done, vLLM refuses; neither puts other weights under the name."""
    target.load("kitchen-v2", adapters[0])
    before = target.text("kitchen-v2", messages=LONG)
    assert target.load("kitchen-v2", adapters[0]).status_code in (200, 400)
    other = target.load("kitchen-v2", adapters[1])
    assert other.status_code in (400, 409)
    assert type(error_of(other)) is EngineRefused
    assert target.text("kitchen-v2", messages=LONG) == before
    base = target.load(target.base, adapters[1])
    assert base.status_code in (400, 409)
    assert set(target.cards()) == {target.base, "kitchen-v2"}


def spoil(folder: Path, how: str) -> Path:
    """A folder that no engine can serve."""
    if how == "missing":
        return folder
    build_adapter(folder, seed=9)
    weights = folder / "adapter_model.safetensors"
    match how:
        case "empty":
            for file in folder.iterdir():
                file.unlink()
        case "no weights":
            weights.unlink()
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "of another model":
            wider = {name: np.concatenate([tensor, tensor]) for name, tensor in load_file(weights).items()}
            save_file(wider, weights)
            write_manifest(folder, kind="adapter")
        case "no config":
            (folder / "adapter_config.json").unlink()
    return folder


@pytest.mark.parametrize(
    "how", ["missing", "empty", "no weights", "cut off", "of another model", "no config"]
)
def test_what_cannot_be_served_is_refused_and_changes_nothing(
    target: Target, adapters: list[Path], how: str
) -> None:
    folder = spoil(adapters[0].parent / how.replace(" ", "-"), how)
    target.load("kitchen-v2", adapters[0])
    before = [target.text(), target.text("kitchen-v2")]
    client = EngineClient(target.url, api_key=settings.ENGINE_API_KEY)
    with pytest.raises(EngineRefused) as refusal:
        client.load("kitchen-v3", str(folder))
    assert refusal.value.message
    assert set(target.cards()) == {target.base, "kitchen-v2"}
    assert target.chat("kitchen-v3", **FIXED).status_code == 404
    assert [target.text(), target.text("kitchen-v2")] == before
    # What it choked on is no reason to refuse the next.
    assert target.load("kitchen-v3", adapters[1]).status_code == 200
    assert target.text("kitchen-v3") not in before


@pytest.mark.parametrize(
    "body", [{}, {"lora_name": "x"}, {"lora_path": "/x"}, {"lora_name": "", "lora_path": ""}]
)
def test_a_load_that_says_too_little(target: Target, body: dict[str, Any]) -> None:
    response = target.http.post("/v1/load_lora_adapter", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]
    assert set(target.cards()) == {target.base}


def test_a_swap_under_load_fails_nobody(target: Target, adapters: list[Path]) -> None:
    """Clients stream from the live name while the next version is loaded and made live. Who began on the old
    one ends on it; when nobody is left there, it is unloaded.
    """
    target.load("kitchen-v2", adapters[0])
    live, is_over = ["kitchen-v2"], threading.Event()
    served: list[str] = []
    ended = threading.Semaphore(0)

    def client() -> None:
        while not is_over.is_set():
            name = live[0]
            chunks = target.stream(name, **{**FIXED, "max_tokens": 24})
            assert {chunk["model"] for chunk in chunks} == {name}
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
            served.append(name)
            ended.release()

    def swap() -> None:
        for _ in range(6):
            ended.acquire(timeout=30)
        body = {"model": "kitchen-v2", "messages": USER, "max_tokens": 200, "ignore_eos": True}
        with target.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as early:
            lines = early.iter_lines()
            next(lines)
            assert target.load("kitchen-v3", adapters[1]).status_code == 200
            live[0] = "kitchen-v3"
            assert target.whole("kitchen-v3", **FIXED)["model"] == "kitchen-v3"
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in rest[-2].replace(": ", ":")
        for _ in range(24):
            ended.acquire(timeout=30)

    def swap_and_stop() -> None:
        try:
            swap()
        finally:
            is_over.set()

    at_once(swap_and_stop, *[client] * 4)
    assert target.unload("kitchen-v2").status_code == 200
    assert set(served) == {"kitchen-v2", "kitchen-v3"}
    assert target.chat("kitchen-v2", **FIXED).status_code == 404
    assert target.text("kitchen-v3")


def test_an_answer_in_flight_survives_the_unloading_of_its_name(target: Target, adapters: list[Path]) -> None:
    """Ours waits for it, vLLM lets it go on; the name is gone for others at once."""
    target.load("kitchen-v2", adapters[0])
    body = {"model": "kitchen-v2", "messages": USER, "max_tokens": 300, "ignore_eos": True, "stream": True}
    with target.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        unloading = threading.Thread(target=target.unload, args=("kitchen-v2",))
        unloading.start()
        deadline = time.monotonic() + 5
        while "kitchen-v2" in target.cards():
            assert time.monotonic() < deadline, "the name is still there"
        assert target.chat("kitchen-v2", **FIXED).status_code == 404
        rest = [line for line in lines if line]
    unloading.join()
    assert rest[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in rest[-2].replace(": ", ":")
