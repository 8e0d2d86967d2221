"""Merging: the same weights as PEFT makes, and an honest number for what a type loses."""

import contextlib
import json
import shutil
import threading

import pytest

from inference.artifact import ArtifactError, verify, write_manifest
from inference.engine.adapter import read_adapter
from inference.engine.errors import InvalidRequest
from inference.engine.turns import Turns
from tests.tiny import build_tiny_adapter

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def weights(tiny, torch, request):
    from inference.engine.weights import Weights

    return Weights(tiny, dtype=getattr(torch, request.param), device=torch.device("cpu"))


def merge(weights, folder):
    return weights.merge(read_adapter(folder, verify(folder)), contextlib.nullcontext())


def reference(tiny, folder, torch):
    """PEFT's own merge, in fp32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).merge_and_unload()


@pytest.mark.parametrize("extra", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}}])
def test_the_merge_is_pefts(weights, tiny, torch, tmp_path, extra):
    from inference.engine.weights import probe

    folder = build_tiny_adapter(tmp_path / "a", tiny, seed=5, size=0.1)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **extra}))
    write_manifest(folder)
    merged = merge(weights, folder)
    ours, theirs = probe(merged.model), probe(reference(tiny, folder, torch))
    close = 1e-4 if weights.dtype == torch.float32 else 0.15
    assert (ours - theirs).abs().max() < close * theirs.abs().max()
    assert merged.shift > 0.1


def test_fused_layers_are_as_exact_as_plain_ones(tiny, torch):
    """Against fp32, on a CPU that multiplies bf16: no further off than transformers' own layers in bf16."""
    from transformers import AutoModelForCausalLM

    from inference.engine.fused import FusedAttention
    from inference.engine.packed import can_pack
    from inference.engine.weights import Weights, probe

    cpu = torch.device("cpu")
    if not can_pack(cpu, torch.bfloat16):
        pytest.skip("this processor has no fast bf16")
    served = Weights(tiny, dtype=torch.bfloat16, device=cpu).base.model
    assert isinstance(served.model.layers[0].self_attn, FusedAttention)
    plain = {
        dtype: probe(AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    exact = plain[torch.float32]
    off = [(logits - exact).square().mean().sqrt() for logits in (probe(served), plain[torch.bfloat16])]
    assert off[0] < 1.2 * off[1]


def test_the_base_is_untouched_by_a_merge(weights, tiny, torch, artifacts):
    from inference.engine.weights import probe

    before = probe(weights.base.model)
    merge(weights, artifacts / "v1")
    assert torch.equal(probe(weights.base.model), before)


def test_only_changed_matrices_are_copied(weights, tiny, artifacts):
    merged = merge(weights, artifacts / "v1")
    own, base = merged.model.get_input_embeddings().weight, weights.base.model.get_input_embeddings().weight
    assert own.data_ptr() == base.data_ptr()
    assert merged.own_bytes < weights.base.own_bytes


def test_the_loss_of_a_type_is_measured(tiny, torch, tmp_path):
    from inference.engine.weights import Weights

    weights = Weights(tiny, dtype=torch.bfloat16, device=torch.device("cpu"))
    large = merge(weights, build_tiny_adapter(tmp_path / "large", tiny, size=0.1))
    small = merge(weights, build_tiny_adapter(tmp_path / "small", tiny, size=3e-4))
    assert large.dtype == torch.bfloat16
    assert 0.001 < large.error < 0.05
    assert small.dtype == torch.float32
    assert small.error == 0.0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0])
def test_an_adapter_that_is_broken_or_empty_is_refused(weights, tiny, torch, tmp_path, number):
    from safetensors.torch import load_file, save_file

    folder = build_tiny_adapter(tmp_path / "a", tiny)
    tensors = load_file(folder / "adapter_model.safetensors")
    spoilt = {name: tensor * number if number == 0 else tensor for name, tensor in tensors.items()}
    next(iter(spoilt.values()))[0, 0] = number
    save_file(spoilt, folder / "adapter_model.safetensors")
    write_manifest(folder)
    with pytest.raises(InvalidRequest, match="finite"):
        merge(weights, folder)


def test_an_adapter_of_another_model_is_refused(weights, tiny, torch, tmp_path):
    from safetensors.torch import load_file, save_file

    for change in (lambda n: n.replace("layers.1.", "layers.9."), lambda n: n.replace("lora_B", "lora_C")):
        folder = build_tiny_adapter(tmp_path / "a", tiny)
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file({change(name): t for name, t in tensors.items()}, folder / "adapter_model.safetensors")
        write_manifest(folder)
        with pytest.raises(InvalidRequest):
            merge(weights, folder)
        shutil.rmtree(folder)
    folder = build_tiny_adapter(tmp_path / "a", tiny)
    cut = {name: t[:, :8].clone() for name, t in load_file(folder / "adapter_model.safetensors").items()}
    save_file(cut, folder / "adapter_model.safetensors")
    write_manifest(folder)
    with pytest.raises(InvalidRequest, match="does not fit"):
        merge(weights, folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b'{"peft_type": "LORA", "lora_alpha": "8"}'),
        ("adapter_config.json", b'{"peft_type": "LORA", "lora_alpha": 8, "alpha_pattern": {"(": 1}}'),
        ("adapter_model.safetensors", b"not what it says"),
    ],
)
def test_files_that_are_no_adapter_are_refused(weights, tiny, tmp_path, name, content):
    folder = build_tiny_adapter(tmp_path / "a", tiny)
    (folder / name).write_bytes(content)
    write_manifest(folder)
    with pytest.raises(InvalidRequest):
        merge(weights, folder)


def test_a_merge_lets_others_at_the_cores_between_its_layers(weights, artifacts):
    """Fourteen layers, then the copy, then the probe: so often a generation thread may make its steps."""
    turns = Turns(1)
    taken = []

    class Counting:
        def __enter__(self):
            turns.__enter__()
            taken.append(threading.get_ident())

        def __exit__(self, *error):
            turns.__exit__(*error)

    folder = artifacts / "v1"
    weights.merge(read_adapter(folder, verify(folder)), Counting())
    assert len(taken) >= 16


def test_bytes_that_change_after_the_check_are_refused(tiny, tmp_path):
    folder = build_tiny_adapter(tmp_path / "a", tiny)
    manifest = verify(folder)
    build_tiny_adapter(folder, tiny, seed=9)
    with pytest.raises(ArtifactError, match="changed while"):
        read_adapter(folder, manifest)
