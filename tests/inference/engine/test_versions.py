"""Versions come and go beside the traffic, and a name always means the same weights."""

import json
import threading
import time
from itertools import pairwise

import pytest

from inference.artifact import read_manifest, write_manifest

pytestmark = pytest.mark.model
FIXED = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


def test_a_version_is_loaded_served_and_unloaded(engine):
    base = engine.text(**FIXED)
    response = engine.load("v1")
    assert response.status_code == 200, response.text
    card = engine.card("v1")
    assert card["parent"] == "tiny"
    assert card["ratchet"]["digest"] == read_manifest(engine.artifacts / "v1")["digest"]
    assert card["ratchet"]["merge_error"] < 0.1
    assert card["ratchet"]["logit_shift"] > 0.1
    answer = engine.chat(**FIXED, model="v1").json()
    assert answer["model"] == "v1"
    assert answer["system_fingerprint"] == card["ratchet"]["digest"]
    assert answer["choices"][0]["message"]["content"] != base
    assert engine.text(**FIXED) == base

    assert engine.unload("v1").status_code == 200
    assert engine.names() == {"tiny"}
    assert engine.chat(**FIXED, model="v1").json()["error"]["code"] == "model_not_found"
    assert 'model_name="v1"' not in engine.http.get("/metrics").text
    assert engine.unload("v1").status_code == 404


def test_two_versions_answer_at_once(engine, loaded):
    assert engine.load("v2").status_code == 200
    alone = {name: engine.text(**FIXED, model=name) for name in ("tiny", "v1", "v2")}
    assert len(set(alone.values())) == 3
    together: dict[str, str] = {}

    def ask(name: str) -> None:
        together[name] = engine.text(**FIXED, model=name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    engine.unload("v2")


def test_loading_again_is_the_same_and_other_weights_are_a_conflict(engine, loaded):
    assert engine.load("v1").status_code == 200
    assert engine.load("v1", str(engine.artifacts / "v1")).status_code == 200
    conflict = engine.load("v1", "v2")
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "conflict")
    assert engine.card("v1")["ratchet"]["digest"] == read_manifest(engine.artifacts / "v1")["digest"]
    assert engine.load("tiny", "v2").status_code == 409
    assert engine.unload("tiny").status_code == 400


def test_one_flipped_byte_is_refused(engine, adapter):
    file = adapter / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    response = engine.load("flipped", adapter.name)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_artifact"
    assert engine.names() == {"tiny"}


def test_a_file_that_could_carry_code_is_refused(engine, adapter):
    (adapter / "training_args.bin").write_bytes(b"pickle")
    write_manifest(adapter)
    assert engine.load("coded", adapter.name).json()["error"]["code"] == "bad_artifact"


def test_without_a_manifest_nothing_is_loaded(engine, adapter):
    (adapter / "manifest.json").unlink()
    assert engine.load("bare", adapter.name).json()["error"]["code"] == "bad_artifact"


@pytest.mark.parametrize("path", ["..", ".", "/etc", "v1/../..", "link", "nowhere", "v1\x00"])
def test_only_the_artifacts_folder_is_read(engine, tiny, path):
    link = engine.artifacts / "link"
    if not link.is_symlink():
        link.symlink_to(tiny)
    response = engine.load("escape", path)
    assert response.status_code in (400, 404), response.text
    assert response.json()["error"]["param"] == "lora_path"
    assert engine.names() == {"tiny"}


@pytest.mark.parametrize("name", ["", "a b", "../v1", "x" * 200, "-v1"])
def test_names_are_plain(engine, name):
    assert engine.load(name, "v1").status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"fan_in_fan_out": True},
        {"auto_map": {"AutoModel": "modeling_evil.Evil"}},
    ],
)
def test_an_adapter_that_would_be_merged_wrongly_is_refused(engine, adapter, change):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    write_manifest(adapter)
    response = engine.load("unusual", adapter.name)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "bad_adapter"
    assert next(iter(change)) in response.json()["error"]["message"] or "IA3" in response.text


def test_a_faint_update_is_served_in_fp32(engine):
    """The base is served in bf16 here, where the machine can; such an update would be lost in it."""
    card = engine.load("faint").json()["ratchet"]
    assert card["merge_error"] < 0.01
    assert card["dtype"] == "float32"
    assert engine.text(**FIXED, model="faint")
    engine.unload("faint")


def test_loading_stalls_no_stream(engine, loaded):
    """Versions come and go while a stream runs: no gap of seconds in it, on a machine that has others
    to serve; `bench/swap.py` has the number.
    """
    times = []
    body = {"model": "v1", "max_tokens": 400, "ignore_eos": True, "stream": True, "temperature": 0}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    changes = []

    def change() -> None:
        for name in ("v2", "v3"):
            changes.append((engine.load(name).status_code, engine.unload(name).status_code))

    with engine.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        thread = threading.Thread(target=change)
        thread.start()
        times += [time.monotonic() for line in lines if line]
    thread.join()
    assert changes == [(200, 200), (200, 200)]
    assert max(after - before for before, after in pairwise(times)) < 2


def test_a_swap_under_load_fails_no_request(engine, loaded):
    """Clients stream from the live name without a pause while v2 is loaded, made live, and v1 unloaded."""
    live, stopping = ["v1"], threading.Event()
    failures: list[str] = []
    served: list[str] = []

    def client() -> None:
        while not stopping.is_set():
            name = live[0]
            try:
                frames = engine.stream(model=name, max_tokens=16, ignore_eos=True)
                assert {frame["model"] for frame in frames} == {name}
                served.append(name)
            except AssertionError as failure:
                failures.append(str(failure))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert engine.load("v2").status_code == 200
    live[0] = "v2"
    time.sleep(0.05)  # a client that has read the old name sends its request
    assert engine.unload("v1").status_code == 200
    time.sleep(0.3)
    stopping.set()
    for thread in threads:
        thread.join()
    engine.unload("v2")
    assert failures == []
    assert {"v1", "v2"} == set(served)


def test_unloading_waits_for_the_answer_in_flight(engine, loaded):
    body = {"model": "v1", "max_tokens": 400, "ignore_eos": True, "stream": True}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    with engine.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        outcome = []
        thread = threading.Thread(target=lambda: outcome.append(engine.unload("v1").status_code))
        thread.start()
        while "v1" in engine.names():
            time.sleep(0.01)
        assert engine.chat(model="v1").status_code == 404
        assert engine.load("v1", "v1").status_code == 409
        rest = [line for line in lines if line]
    thread.join()
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert outcome == [200]
