"""Room for more versions: the least recently used goes, never the base, a pinned one, or one that answers.

The narrow engine has memory for the base and two adapters.
"""

import time
from pathlib import Path

import pytest

from inference.artifact import write_manifest

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def emptied(narrow):
    yield
    for name in narrow.names() - {"tiny"}:
        narrow.unload(name)


def evicted(engine) -> float:
    lines = engine.http.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("ratchet_engine_evicted_total"))


def test_the_least_recently_used_makes_room(narrow):
    before = evicted(narrow)
    for name in ("v1", "v2"):
        assert narrow.load(name).status_code == 200
    narrow.text(model="v1", max_tokens=1)
    assert narrow.load("v3").status_code == 200
    assert narrow.names() == {"tiny", "v1", "v3"}
    assert narrow.chat(model="v2").status_code == 404
    assert narrow.text(model="v3", max_tokens=4) is not None
    assert narrow.load("v2").status_code == 200
    assert narrow.names() == {"tiny", "v3", "v2"}
    assert evicted(narrow) == before + 2


def test_a_pinned_version_stays(narrow):
    assert narrow.load("v1", pinned=True).json()["ratchet"]["pinned"] is True
    assert narrow.load("v2").json()["ratchet"]["pinned"] is False
    narrow.text(model="v2", max_tokens=1)
    assert narrow.load("v3").status_code == 200
    assert narrow.names() == {"tiny", "v1", "v3"}


def test_loading_again_changes_the_pin_and_nothing_else(narrow):
    first = narrow.load("v1").json()
    assert narrow.load("v1", pinned=True).json()["ratchet"]["pinned"] is True
    assert narrow.load("v1").json()["ratchet"]["pinned"] is True
    again = narrow.load("v1", pinned=False).json()
    assert again["ratchet"]["pinned"] is False
    assert again["created"] == first["created"]
    assert narrow.load("v1", pinned="yes").json()["error"]["param"] == "pinned"


def test_with_nothing_to_unload_the_load_is_refused(narrow):
    assert narrow.load("v1", pinned=True).status_code == 200
    assert narrow.load("v2", pinned=True).status_code == 200
    refusal = narrow.load("v3")
    assert refusal.status_code == 507
    assert refusal.json()["error"]["code"] == "out_of_memory"
    assert narrow.names() == {"tiny", "v1", "v2"}


def test_a_version_that_answers_stays(narrow):
    """v1 was asked longest ago, and is still at it: v2 goes."""
    for name in ("v1", "v2"):
        assert narrow.load(name).status_code == 200
    body = {"model": "v1", "n": 3, "max_tokens": 440, "ignore_eos": True, "stream": True}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    with narrow.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()  # kept, because a stream that nobody holds is closed
        next(lines)
        narrow.text(model="v2", max_tokens=1)
        assert narrow.load("v3").status_code == 200
        assert narrow.names() == {"tiny", "v1", "v3"}


def test_a_load_that_fails_unloads_nothing(narrow, adapter):
    import torch
    from safetensors.torch import load_file, save_file

    for name in ("v1", "v2"):
        assert narrow.load(name).status_code == 200
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, adapter / "adapter_model.safetensors")
    write_manifest(adapter)
    assert narrow.load("spoilt", adapter.name).json()["error"]["code"] == "bad_adapter"
    assert narrow.load("v3", "nowhere").status_code == 404
    assert narrow.names() == {"tiny", "v1", "v2"}


def resident(engine) -> int:
    """kB of the process that are no file's."""
    lines = Path(f"/proc/{engine.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_memory_goes_back(narrow):
    """Thirty loads, each in the place of another: the process does not grow by thirty versions."""

    def turn() -> None:
        for name in ("v1", "v2", "v3"):
            assert narrow.load(name).status_code == 200

    turn()
    before, began = resident(narrow), time.monotonic()
    for _ in range(5):
        turn()
    assert time.monotonic() - began < 60
    assert resident(narrow) - before < 30_000  # kB


def test_prompts_of_every_length_are_forgotten(engine):
    """Where the CPU multiplies bf16, what is compiled for a length is kept for a few of them only."""
    for length in range(1, 20):
        engine.text(messages=[{"role": "user", "content": "a" * length}], max_tokens=1)
    before = resident(engine)
    for length in range(20, 90):
        engine.text(messages=[{"role": "user", "content": "a" * length}], max_tokens=1)
    assert resident(engine) - before < 60_000  # kB; without a bound it is 150,000
