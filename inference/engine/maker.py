"""From a folder on disk to a version that answers: checks, weights, a lane, and a first answer.

What is heavy here runs in threads beside the traffic; none of it knows which versions are served.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from inference.artifact import MANIFEST, digest_of, sha256_file, verify
from inference.engine.adapter import Adapter, read_adapter
from inference.engine.chat import ChatTokenizer
from inference.engine.errors import InvalidRequest, NotFound
from inference.engine.lane import Event, Generation, Lane
from inference.engine.memory import MemoryPlan, plan_memory
from inference.engine.options import Options
from inference.engine.sampling import GREEDY
from inference.engine.served import ServedVersion
from inference.engine.turns import Turns
from inference.engine.weights import Merged, Weights, serving_device, serving_dtype

WARM_UP_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the base model gives to every version."""

    weights: Weights
    chat: ChatTokenizer
    memory: MemoryPlan
    loop: asyncio.AbstractEventLoop  # to which the lanes report


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An adapter whose files are those of its manifest and fit the base. `bytes` is what it will take."""

    folder: Path
    digest: str
    adapter: Adapter
    bytes: int


class Maker:
    """Makes versions. Its methods but `warm_up` are for threads."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._turns = Turns(options.cores // options.threads)

    def base(self, loop: asyncio.AbstractEventLoop) -> tuple[Base, ServedVersion]:
        """The base model. Raises ArtifactError when its files are not its manifest's, OutOfMemory."""
        folder = self._options.model.resolve()
        known = (folder / MANIFEST).exists()
        digest = verify(folder, servable=True)["digest"] if known else _digest_of_folder(folder)
        device = serving_device(self._options.device)
        weights = Weights(folder, dtype=serving_dtype(self._options.dtype, device), device=device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        size = weights.base.own_bytes
        memory = plan_memory(
            self._options, weights.config, base_bytes=size, dtype=weights.dtype, device=device
        )
        chat = ChatTokenizer(tokenizer, weights.base.model.generation_config.eos_token_id)
        base = Base(weights=weights, chat=chat, memory=memory, loop=loop)
        return base, self._version(self._options.served_name, digest, weights.base, folder, base)

    def check(self, path: str, base: Base) -> Checked:
        """The adapter at `path`. No byte of it reaches torch before its digest was found right.

        Raises NotFound, ArtifactError for files that are not their manifest's, InvalidRequest for what
        cannot be merged.
        """
        folder = self._folder(path)
        manifest = verify(folder, servable=True)
        adapter = read_adapter(folder, manifest)
        size = base.weights.size_of(adapter) + base.memory.cache_bytes(base.weights.dtype)
        return Checked(folder=folder, digest=manifest["digest"], adapter=adapter, bytes=size)

    def merge(self, checked: Checked, base: Base) -> Merged:
        """Its weights. Raises InvalidRequest when they are not finite."""
        torch.set_num_threads(self._options.threads)  # a setting of each thread
        return base.weights.merge(checked.adapter, self._turns)

    def version(self, name: str, checked: Checked, merged: Merged, base: Base) -> ServedVersion:
        """A version with a lane of its own, not warmed up."""
        return self._version(name, checked.digest, merged, checked.folder, base)

    async def warm_up(self, version: ServedVersion, base: Base, *, answers: int) -> None:
        """Make answers before anyone waits for one: kernels are built, and memory mapped, at first use."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        prompt = base.chat.encode([{"role": "user", "content": "Hello"}])
        prompt = prompt[: base.memory.max_model_len - answers]
        # Each ends a step before the next, so that every size of batch is met once.
        version.lane.submit([Generation(i, prompt, GREEDY, 1 + i, False, queue) for i in range(answers)])
        left = answers
        while left:
            async with asyncio.timeout(WARM_UP_S):
                event = await queue.get()
            if event.error:
                raise InvalidRequest(f"the version does not answer: {event.error}", code="bad_adapter")
            left -= event.finish is not None

    def _version(self, name: str, digest: str, merged: Merged, folder: Path, base: Base) -> ServedVersion:
        lane = Lane(
            merged.model,
            eos=base.chat.eos,
            cache_tokens=base.memory.cache_tokens,
            max_running=self._options.max_running,
            threads=self._options.threads,
            turns=self._turns,
            loop=base.loop,
        )
        return ServedVersion(
            name=name,
            digest=digest,
            merged=merged,
            lane=lane,
            root=str(folder),
            parent=None if merged.is_base else self._options.served_name,
            bytes=merged.own_bytes + base.memory.cache_bytes(merged.dtype),
            max_model_len=base.memory.max_model_len,
        )

    def _folder(self, path: str) -> Path:
        """The adapter's folder, which must lie under the artifacts folder, links followed."""
        root = self._options.artifacts_dir.resolve()
        folder = (root / path).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise InvalidRequest("lora_path must lie under the engine's artifacts folder", param="lora_path")
        if not folder.is_dir():
            raise NotFound(f"there is no folder {path}", code="no_such_adapter", param="lora_path")
        return folder


def _digest_of_folder(folder: Path) -> str:
    """A digest for a model that came without a manifest: of the files as they are."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files: dict[str, Any] = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in paths
    }
    return digest_of(files)
