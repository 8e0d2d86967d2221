"""Manifests and digests: the one place that writes and checks them.

An artifact is a folder of files with a `manifest.json` written last. The manifest lists each file's size
and sha256; the digest of the artifact is the sha256 of that list in canonical JSON, so that the same files
have the same digest wherever they lie. Django, the engine and the recipes all use this module: it imports
neither Django nor torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, cast

MANIFEST = "manifest.json"
# What a served artifact may hold. Pickles (.bin, .pt, .pkl) and code (.py) never reach a loader.
SERVABLE_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".jinja", ".md", ".model"})


class ArtifactError(Exception):
    """The folder is not the artifact that its manifest describes; the message says what differs."""


def canonical_json(value: Any) -> bytes:
    """Bytes that are equal when the values are: sorted keys, no spaces, UTF-8, NaN refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """`sha256:` and the hex digest of the value's canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in blocks so that memory stays constant."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, **facts: Any) -> dict[str, Any]:
    """Hash every file in `folder`, write the manifest last and atomically, and return it.

    `facts` are kept beside the file list (method, base, lineage, numbers); they do not enter the digest.
    """
    files = _hash_files(folder)
    manifest = {**facts, "files": files, "digest": digest_of(files)}
    write_atomically(
        folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False).encode()
    )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as written. Raises ArtifactError when it is missing or is no manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except OSError as error:  # people read it on a page: our paths say nothing to them
        why = (error.strerror or "it cannot be read").lower()
        raise ArtifactError(f"{folder.name} has no readable {MANIFEST}: {why}") from error
    except ValueError as error:
        raise ArtifactError(f"{folder.name} has no readable {MANIFEST}: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{folder.name}/{MANIFEST} has no list of files")
    return cast(dict[str, Any], manifest)


def verify(folder: Path, *, expected_digest: str | None = None, servable: bool = False) -> dict[str, Any]:
    """Check every file against the manifest and return the manifest.

    Raises ArtifactError for a missing, added, changed or linked file, for a digest other than
    `expected_digest`, and, with `servable`, for a file that could carry code or a pickle.
    """
    manifest = read_manifest(folder)
    found = _hash_files(folder)
    for name in sorted(found.keys() | manifest["files"].keys()):
        if found.get(name) != manifest["files"].get(name):
            raise ArtifactError(f"{folder.name}/{name} is not the file that the manifest describes")
    if digest_of(found) != manifest.get("digest"):
        raise ArtifactError(f"the digest of {folder.name} is not the one in its manifest")
    if expected_digest is not None and manifest["digest"] != expected_digest:
        raise ArtifactError(f"{folder.name} has digest {manifest['digest']}, expected {expected_digest}")
    if servable:
        for name in found:
            if Path(name).suffix not in SERVABLE_SUFFIXES:
                raise ArtifactError(f"{folder.name}/{name} may not be loaded: only safetensors and text are")
    return manifest


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, sync, rename: a reader sees the old file or the new one, never a part."""
    # Of this thread alone: two workers in one process may tick the same run.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative path -> {"sha256", "bytes"} of each file but the manifest. Raises ArtifactError on a link."""
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder.name}")
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ArtifactError(f"{path.relative_to(folder)} is a link; artifacts hold plain files only")
        if path.is_file() and path != folder / MANIFEST:
            files[path.relative_to(folder).as_posix()] = {
                "sha256": sha256_file(path),
                "bytes": path.stat().st_size,
            }
    return files
