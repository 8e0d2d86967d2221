"""Which versions are served: the base, and adapters loaded and unloaded beside the traffic.

A load that fails changes nothing. A name always means the same weights: another digest under a loaded name is
a conflict. Unloading hides the name at once and waits for the answers that began under it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from inference.artifact import MANIFEST, digest_of, sha256_file, verify
from inference.engine.chat import ChatTokenizer
from inference.engine.errors import Conflict, InvalidRequest, NotFound, Unavailable
from inference.engine.lane import Event, Generation, Lane
from inference.engine.memory import MemoryPlan, give_back, plan_memory
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.sampling import Sampling
from inference.engine.turns import Turns
from inference.engine.weights import Merged, Weights, serving_dtype

log = logging.getLogger("ratchet.engine")
DRAIN_GRACE_S = 5.0  # beyond the deadline of a request
WARM_UP = 8  # answers at once, for the base; its kernels serve the other versions too
WARM_UP_S = 120.0


@dataclass(eq=False, kw_only=True)
class ServedVersion:
    """A name that can be asked for."""

    name: str
    digest: str
    merged: Merged
    lane: Lane
    root: str
    bytes: int  # that go back when it is unloaded
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the base model gives to every version."""

    weights: Weights
    chat: ChatTokenizer
    memory: MemoryPlan
    loop: asyncio.AbstractEventLoop  # to which the lanes report


class Versions:
    """The registry. Its methods run on the event loop, the heavy parts in threads."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._turns = Turns(options.cores // options.threads)
        self._base: Base | None = None
        self._served: dict[str, ServedVersion] = {}
        self._draining: set[str] = set()
        self._loading = asyncio.Lock()  # one load at a time

    # What is served -----------------------------------------------------------------------------------------

    @property
    def base(self) -> Base:
        """Raises Unavailable while the base model is being loaded."""
        if self._base is None:
            raise Unavailable("the model is still being loaded", code="loading")
        return self._base

    @property
    def is_ready(self) -> bool:
        """Base loaded, every generation thread alive."""
        return bool(self._served) and all(version.lane.is_alive for version in self._served.values())

    def get(self, name: str) -> ServedVersion:
        """Raises NotFound for a name that is not served, or no more."""
        version = self._served.get(name)
        if version is None:
            raise NotFound(f"the model {name!r} is not served here", param="model")
        return version

    def all(self) -> list[ServedVersion]:
        return list(self._served.values())

    def waiting(self) -> int:
        """Answers that wait, of all versions."""
        return sum(version.lane.waiting for version in self._served.values())

    def card(self, version: ServedVersion) -> dict[str, Any]:
        """One entry of GET /v1/models: vLLM's fields, and ours under `ratchet`."""
        is_base = version.name == self._options.served_name
        return {
            "id": version.name,
            "object": "model",
            "created": version.created,
            "owned_by": "ratchet",
            "root": version.root,
            "parent": None if is_base else self._options.served_name,
            "max_model_len": self.base.memory.max_model_len,
            "ratchet": {
                "digest": version.digest,
                "bytes": version.bytes,
                "merge_error": version.merged.error,
                "logit_shift": version.merged.shift,
                "dtype": str(version.merged.dtype).removeprefix("torch."),
                "running": version.lane.running,
                "waiting": version.lane.waiting,
            },
        }

    # Changing it --------------------------------------------------------------------------------------------

    async def load_base(self) -> None:
        """Read the base model and serve it. Raises ArtifactError when its files are not its manifest's."""
        began = time.monotonic()
        base, version = await asyncio.to_thread(self._prepare_base, asyncio.get_running_loop())
        await self._warm_up(version, base, answers=min(WARM_UP, self._options.max_running))
        self._base, self._served[version.name] = base, version
        await asyncio.to_thread(give_back)
        gc.freeze()  # what exists now stays: later collections need not walk through it
        log.info("%s is ready after %.1f s", version.name, time.monotonic() - began)

    async def load(self, name: str, path: str) -> ServedVersion:
        """Load an adapter under `name`. Same name, same digest: the version that is served already."""
        base = self.base
        async with self._loading:
            if name == self._options.served_name or name in self._draining:
                raise Conflict(f"{name} is taken: choose another name", param="lora_name")
            began = time.monotonic()
            folder = await asyncio.to_thread(self._folder, path)
            manifest = await asyncio.to_thread(verify, folder, servable=True)
            known = self._served.get(name)
            if known is not None and known.digest == manifest["digest"]:
                return known
            if known is not None:
                raise Conflict(f"{name} is loaded with digest {known.digest}: load this one under a new name")
            used = sum(version.bytes for version in self.all())
            base.memory.refuse_another(used=used, dtype=base.weights.dtype)
            version = await asyncio.to_thread(self._prepare, name, folder, manifest, base)
            try:
                await self._warm_up(version, base, answers=1)
            except BaseException:
                await version.lane.stop()
                raise
            self._served[name] = version
            await asyncio.to_thread(give_back)
            seconds = time.monotonic() - began
            self._metrics.load_seconds.observe(seconds)
            log.info("%s is ready after %.2f s: %s", name, seconds, self.card(version)["ratchet"])
            return version

    async def unload(self, name: str) -> None:
        """Hide the name, wait for its answers, let its memory go."""
        if name == self._options.served_name:
            raise InvalidRequest("the base model cannot be unloaded", param="lora_name")
        version = self._served.pop(name, None)
        if version is None:
            raise NotFound(f"{name} is not loaded", param="lora_name")
        self._draining.add(name)
        try:
            async with asyncio.timeout(self._options.request_timeout_s + DRAIN_GRACE_S):
                await version.lane.drained()
        except TimeoutError:
            log.error("%s did not drain: its last answers fail", name)  # noqa: TRY400 - no trace is of use
        finally:
            await version.lane.stop()
            self._draining.discard(name)
            self._metrics.forget(name)
        del version
        await asyncio.sleep(0.1)  # the worker that stopped the lane lets go of it a moment later
        await asyncio.to_thread(give_back)
        log.info("%s is unloaded", name)

    async def watch(self) -> None:
        """Start a new thread wherever one died. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(0.1)
            for version in self.all():
                if not version.lane.is_alive:
                    self._metrics.restarts.labels(version.name).inc()
                    version.lane.restart()
                    await asyncio.sleep(1)  # a thread that dies at once must not take all of the machine

    async def stop(self) -> None:
        """End every thread; what is being answered fails."""
        for version in self.all():
            await version.lane.stop()

    def _prepare_base(self, loop: asyncio.AbstractEventLoop) -> tuple[Base, ServedVersion]:
        folder = self._options.model.resolve()
        known = (folder / MANIFEST).exists()
        digest = verify(folder, servable=True)["digest"] if known else _digest_of_folder(folder)
        dtype = serving_dtype(self._options.dtype, self._device)
        weights = Weights(folder, dtype=dtype, device=self._device)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        base = Base(
            weights=weights,
            chat=ChatTokenizer(tokenizer, weights.base.model.generation_config.eos_token_id),
            memory=plan_memory(
                self._options, weights.config, base_bytes=weights.base.own_bytes, dtype=weights.dtype
            ),
            loop=loop,
        )
        return base, self._version(self._options.served_name, digest, weights.base, folder, base)

    def _prepare(self, name: str, folder: Path, manifest: dict[str, Any], base: Base) -> ServedVersion:
        torch.set_num_threads(self._options.threads)  # a setting of each thread
        merged = base.weights.merge(folder, manifest, self._turns)
        return self._version(name, manifest["digest"], merged, folder, base)

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
        size = merged.own_bytes + base.memory.cache_bytes(merged.dtype)
        return ServedVersion(name=name, digest=digest, merged=merged, lane=lane, root=str(folder), bytes=size)

    def _folder(self, path: str) -> Path:
        """The adapter's folder, which must lie under the artifacts folder, links followed."""
        root = self._options.artifacts_dir.resolve()
        folder = (root / path).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise InvalidRequest("lora_path must lie under the engine's artifacts folder", param="lora_path")
        if not folder.is_dir():
            raise NotFound(f"there is no folder {path}", code="no_such_adapter", param="lora_path")
        return folder

    async def _warm_up(self, version: ServedVersion, base: Base, *, answers: int) -> None:
        """Make answers before anyone waits for one: kernels are built, and memory mapped, at first use."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        prompt = base.chat.encode([{"role": "user", "content": "Hello"}])[
            : base.memory.max_model_len - WARM_UP
        ]
        greedy = Sampling(temperature=0.0, top_p=1.0, top_k=1, key=0)
        left = answers
        # Each ends a step before the next, so that every size of batch is met once.
        version.lane.submit([Generation(i, prompt, greedy, 1 + i, False, queue) for i in range(left)])
        while left:
            async with asyncio.timeout(WARM_UP_S):
                event = await queue.get()
            if event.error:
                raise InvalidRequest(f"the version does not answer: {event.error}", code="bad_adapter")
            left -= event.finish is not None


def _digest_of_folder(folder: Path) -> str:
    """A digest for a model that came without a manifest: of the files as they are."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return digest_of(
        {
            path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in paths
        }
    )
