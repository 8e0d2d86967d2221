"""The run directory: what a supervisor and a recipe say to each other, whatever launched the recipe.

In:  `run.json` (immutable), `dataset/` (an artifact of Parquet shards).
`fence` names the start that the folder belongs to: a process of an earlier one leaves when it sees another.
Out: `events.jsonl` (appended), `heartbeat` (touched while the process lives), `checkpoints/`, and
`artifact/`, which appears whole: it is written beside, its manifest last, and then renamed.

A recipe is a function that takes a `Run`. `run_recipe` gives it a heartbeat, turns SIGTERM into a checkpoint,
and turns every end into an event and an exit code. Imports neither Django nor torch.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from inference.artifact import ArtifactError, verify

HEARTBEAT_SECONDS = 2.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
# In errors of torch, the system, C++ and oneDNN, which does not say why it cannot create something.
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
    "could not create a primitive", "could not create a memory",
)  # fmt: skip
OFFLINE = {
    "HF_HUB_OFFLINE": "1",  # a run reads what its run.json names, and no hub
    "HF_HUB_DISABLE_TELEMETRY": "1",  # each TRL trainer reports itself otherwise
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait sleep: spinning ones took five times the CPU when another process wanted a core.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class RunFailure(Exception):
    """A run that ends early: `cause` for programs, the message for people, `code` for the shell."""

    cause = "internal"
    code = 70


class BadRun(RunFailure):
    """run.json or a hyperparameter in it is wrong."""

    cause, code = "config", 65


class BadBase(RunFailure):
    """The base model is missing or is not the one that run.json names."""

    cause, code = "base", 65


class BadData(RunFailure):
    """The dataset is damaged, is another one, or holds rows that this method cannot use."""

    cause, code = "data", 65


class OutOfMemory(RunFailure):
    cause, code = "oom", 71


class Diverged(RunFailure):
    """The loss or the gradient is no number any more."""

    cause, code = "diverged", 72


class DiskFull(RunFailure):
    cause, code = "disk", 74


class Interrupted(RunFailure):
    """SIGTERM: what was done is in the last checkpoint, and the next start goes on from there."""

    cause, code = "interrupted", 75


class Overtaken(RunFailure):
    """Another start took the folder over while this process was frozen or cut off: it leaves, silently."""

    cause, code = "overtaken", 76


@dataclass(frozen=True)
class Given:
    """A version that a run reads: its folder and digest."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Spec:
    """run.json, checked."""

    run: str  # "demo/3", for people
    id: str
    method: str
    base_path: Path
    base_digest: str
    dataset_digest: str
    config: dict[str, Any]
    seed: int
    device: str  # auto, cpu or cuda
    threads: int  # 0: as many as the machine has
    versions: dict[str, Given] = field(default_factory=dict)  # by role: reward, adapter


@dataclass
class Run:
    """One run directory in work."""

    folder: Path
    spec: Spec
    stop: threading.Event = field(default_factory=threading.Event)  # set by SIGTERM
    in_training: bool = False  # then the trainer looks at `stop` and writes a checkpoint first

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    def emit(self, event: str, **facts: Any) -> None:
        """Append one event; of several processes only the first one tells.

        A line that a killed process left half written is closed first.
        """
        if is_main():
            write_event(self.folder, event, **facts)


def is_main() -> bool:
    """Whether this is the first process of the run, or the only one. `accelerate launch` numbers them."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leave_if_overtaken(folder: Path) -> None:
    """End this process where the folder belongs to another start by now. Call it before what others read.

    A process that was frozen, or whose machine was cut off, does not know that it was given up; woken, it
    must neither tell nor publish. By hand there is no RUN_FENCE, and nobody to be overtaken by.
    """
    mine = os.environ.get("RUN_FENCE")
    if not mine:
        return
    try:
        current = (folder / "fence").read_text()
    except FileNotFoundError:
        current = ""
    if current != mine:
        print("overtaken: another start has this run directory now", file=sys.stderr, flush=True)
        os._exit(Overtaken.code)  # at once, from whatever thread: nothing may be written on the way out


def write_event(folder: Path, event: str, **facts: Any) -> None:
    """Append `{"event", "time", ...}` to events.jsonl in one write, so that lines never mix."""
    leave_if_overtaken(folder)
    line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
    data = json.dumps(line, allow_nan=False).encode() + b"\n"
    with (folder / "events.jsonl").open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data
        file.write(data)


def read_spec(folder: Path, method: str) -> Spec:
    """run.json of `folder`. Raises BadRun with a sentence for whatever is missing or of the wrong kind."""
    try:
        raw = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadRun(f"run.json cannot be read: {error}") from error
    try:
        spec = Spec(
            run=_want(raw, "run", str),
            id=_want(raw, "id", str),
            method=_want(raw, "method", str),
            base_path=Path(_want(raw["base"], "path", str)),
            base_digest=_want(raw["base"], "digest", str),
            dataset_digest=_want(raw["dataset"], "digest", str),
            config=_want(raw, "config", dict),
            seed=_want(raw, "seed", int),
            device=_want(raw["resources"], "device", str),
            threads=_want(raw["resources"], "threads", int),
            versions={
                role: Given(Path(_want(given, "path", str)), _want(given, "digest", str))
                for role, given in raw.get("versions", {}).items()
            },
        )
    except (KeyError, TypeError) as error:
        raise BadRun(f"run.json lacks {error} or has it in the wrong form") from error
    if spec.method != method:
        raise BadRun(f"run.json asks for the method {spec.method}, this recipe is {method}")
    if spec.device not in ("auto", "cpu", "cuda"):
        raise BadRun(f"resources.device must be auto, cpu or cuda, got {spec.device}")
    if spec.threads < 0:
        raise BadRun(f"resources.threads must be 0 (all) or more, got {spec.threads}")
    return spec


def run_recipe(folder: Path, method: str, recipe: Callable[[Run], None]) -> int:
    """Run `recipe` on `folder` and return the exit code. Finished work is recognised and left alone."""
    os.environ.update(OFFLINE)
    try:
        if (folder / "artifact").is_dir() and _is_published(folder):
            return 0
        with Heartbeat(folder):
            run = Run(folder, read_spec(folder, method))
            _checkpoint_on_sigterm(run)
            recipe(run)
    except Exception as error:  # noqa: BLE001  every end of a run is told to the supervisor
        failure = _as_failure(error)
        if type(failure) is RunFailure:
            traceback.print_exc()
        print(f"{failure.cause}: {failure}", file=sys.stderr)
        _tell(folder, failure)
        return failure.code
    return 0


class Heartbeat:
    """Touches `heartbeat` every two seconds from a thread, so that a long step is not taken for a death.

    The same thread ends a process that was overtaken. Of several processes the first one touches.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "heartbeat"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        leave_if_overtaken(self._path.parent)
        if is_main():
            self._path.touch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT_SECONDS):
            try:
                leave_if_overtaken(self._path.parent)
                if is_main():
                    self._path.touch()
            except OSError:
                # A full disk or a vanished folder ends the run by its own failure; the silence says it too.
                return


def _checkpoint_on_sigterm(run: Run) -> None:
    """While training, SIGTERM asks for a checkpoint; before and after, there is nothing to save."""

    def on_sigterm(signum: int, frame: FrameType | None) -> None:
        run.stop.set()
        if not run.in_training:
            raise Interrupted("stopped by SIGTERM outside of training; the next start goes on")

    signal.signal(signal.SIGTERM, on_sigterm)


def _is_published(folder: Path) -> bool:
    try:
        verify(folder / "artifact")
    except ArtifactError:
        return False
    return True


def _as_failure(error: Exception) -> RunFailure:
    """The failure that an exception amounts to, its message made for people."""
    if isinstance(error, RunFailure):
        return error
    text = str(error)
    is_told = any(words in text.lower() for words in _OUT_OF_MEMORY)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or is_told:
        return OutOfMemory(
            "the device ran out of memory. Lower batch_size and raise gradient_accumulation by the same "
            "factor, lower max_length, or set gradient_checkpointing."
        )
    if _is_disk_full(error):
        return DiskFull(f"the disk is full: {error}. Make room and start the run again; it goes on.")
    return RunFailure(f"{type(error).__name__}: {text}")


def _is_disk_full(error: BaseException | None) -> bool:
    """Also what safetensors and torch make of it: errors of their own, with the system's words in them."""
    while error is not None:
        said = str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(
            part in said for part in ("No space left", "os error 28", "PytorchStreamWriter failed writing")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _tell(folder: Path, failure: RunFailure) -> None:
    """The last event of a run. Where one of several processes fails, the others are ended by its launcher:

    the first failure is the one that counts, so an interruption is not told behind it.
    """
    if isinstance(failure, Interrupted) and processes() > 1 and (not is_main() or _has_failed(folder)):
        return
    try:
        write_event(folder, "failed", cause=failure.cause, message=str(failure))
    except OSError as error:
        print(f"events.jsonl cannot be written: {error}", file=sys.stderr)


def _has_failed(folder: Path) -> bool:
    """Whether the last event is a failure."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return bool(lines) and b'"event": "failed"' in lines[-1]


def _want(raw: Any, name: str, kind: type) -> Any:
    """raw[name], of exactly this type. Raises KeyError or TypeError with the name."""
    value = raw[name]
    if type(value) is not kind:
        raise TypeError(f"{name} ({kind.__name__})")
    return value


def keep_freed_memory() -> None:
    """On Linux, let malloc keep what it frees: a step frees and wants a gigabyte of activations.

    Given back to the kernel and faulted in anew, they cost 40 of 210 CPU seconds of a run on two cores.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl does not
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, 1 << 30)
            mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
