"""The run directory, from the supervisor's side: made once, read while the child works."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from django.conf import settings

from inference.artifact import ArtifactError, read_manifest, verify, write_atomically
from inference.models import Version
from training.models import Run

LOG_TAIL_BYTES = 2000


class NotReady(Exception):
    """The run cannot start as things are: its data or its base is missing, damaged or another one."""


def prepare(run: Run) -> None:
    """Put the dataset and run.json into the run's folder. Safe to repeat. Raises NotReady, OSError."""
    run.folder.mkdir(parents=True, exist_ok=True)
    dataset = run.folder / "dataset"
    if not dataset.is_dir():
        try:
            verify(run.dataset.folder, expected_digest=run.dataset.digest)
        except ArtifactError as error:
            raise NotReady(f"Dataset {run.dataset.number} is damaged: {error}.") from error
        partial = run.folder / f"dataset.partial-{secrets.token_hex(4)}"  # another start may copy beside us
        try:
            shutil.copytree(run.dataset.folder, partial)
            _put_in_place(partial, dataset)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    _write_spec(run)


def _put_in_place(partial: Path, whole: Path) -> None:
    """Whoever comes second finds the same files there."""
    try:
        partial.rename(whole)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def raise_fence(run: Run) -> str:
    """Give the folder to the next start, and return what it must find there. Whoever has another leaves."""
    fence = secrets.token_hex(8)
    if run.folder.is_dir():  # a run that ends before it began has none
        write_atomically(run.folder / "fence", fence.encode())
    return fence


def read_fence(run: Run) -> str:
    """The start that the folder belongs to; empty before the first one."""
    try:
        return (run.folder / "fence").read_text()
    except FileNotFoundError:
        return ""


def _write_spec(run: Run) -> None:
    """run.json: everything that the recipe is told, every hyperparameter written out. Raises NotReady.

    It changes only when the run's config does (half the batch after a lack of memory); a checkpoint knows the
    batch size that it was made with, so then the next start begins anew.
    """
    path = run.folder / "run.json"
    spec = {
        "run": f"{run.project.slug}/{run.number}",
        "id": str(run.id),
        "method": run.method,
        "base": {"path": str(settings.MODEL_DIR), "digest": _base_digest(run)},
        "dataset": {"digest": run.dataset.digest},
        "config": run.config,
        "seed": run.seed,
        "resources": {"device": settings.TRAIN_DEVICE, "threads": settings.TRAIN_THREADS},
        "versions": _versions(run),
    }
    data = json.dumps(spec, indent=2, sort_keys=True, allow_nan=False).encode()
    if path.exists():
        if json.loads(path.read_bytes())["config"] == run.config:
            return
        forget_checkpoints(run)
    write_atomically(path, data)


def forget_checkpoints(run: Run) -> None:
    shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)


def is_published(run: Run) -> bool:
    """The recipe renames its artifact into place when all of it is there."""
    return (run.folder / "artifact").is_dir()


def is_silent(run: Run) -> bool:
    """True when the child has not touched its heartbeat for RUN_SILENCE_SECONDS, counted from its launch."""
    last = float(run.handle.get("launched", 0))
    with contextlib.suppress(FileNotFoundError):  # where it has not come so far, the launch counts
        last = max(last, (run.folder / "heartbeat").stat().st_mtime)
    return bool(time.time() - last > settings.RUN_SILENCE_SECONDS)


def read_events(run: Run, offset: int, limit: int) -> bytes:
    """Up to `limit` bytes of events.jsonl from `offset`, whole lines only."""
    try:
        with (run.folder / "events.jsonl").open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def log_tail(run: Run) -> str:
    """The end of the child's log, for a message."""
    path = run.folder / "log.txt"
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").replace("\x00", "").strip()
    except FileNotFoundError:
        return ""


def _base_digest(run: Run) -> str:
    """The digest of the base as it lies in MODEL_DIR, which must be the one that the project began with."""
    try:
        found = str(read_manifest(Path(settings.MODEL_DIR))["digest"])
    except ArtifactError as error:
        raise NotReady(f"The base model is not in MODEL_DIR: {error}. Run `make model`.") from error
    base = Version.objects.filter(project=run.project, kind=Version.Kind.BASE).order_by("-number").first()
    if base is not None and base.digest.startswith("sha256:") and base.digest != found:
        raise NotReady(
            f"MODEL_DIR holds {found}, and {run.project.slug} began with {base.digest}. "
            "Set MODEL_DIR to the project's base model."
        )
    return found


def _versions(run: Run) -> dict[str, dict[str, str]]:
    """The versions that the recipe reads, by role. The base is none of them: it is read as it is."""
    given = {"reward": run.reward, "start": run.start, "adapter": run.judged}
    return {
        role: {"path": str(version.folder), "digest": version.digest}
        for role, version in given.items()
        if version is not None and version.kind != Version.Kind.BASE
    }


def facts_of(line: bytes) -> dict[str, Any] | None:
    """One event; None for a line that a killed child left half written."""
    try:
        value = json.loads(line, parse_constant=_refuse)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return None
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
