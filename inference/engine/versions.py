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
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from inference.artifact import MANIFEST, digest_of, sha256_file, verify
from inference.engine.chat import ChatTokenizer
from inference.engine.errors import Conflict, InvalidRequest, NotFound, OutOfMemory, Unavailable
from inference.engine.lane import Event, Generation, Lane
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.sampling import Sampling
from inference.engine.turns import Turns
from inference.engine.weights import Merged, Weights, serving_dtype

log = logging.getLogger("ratchet.engine")
GIB = 1 << 30
PLANNED_VERSIONS = 4  # champion, previous, canary, candidate: what the memory is divided among
USUAL_TOKENS = 512  # of prompt and answer: more cache than this for each running answer is not set aside
DRAIN_GRACE_S = 5.0  # beyond the deadline of a request


@dataclass(eq=False)
class ServedVersion:
    """A name that can be asked for."""

    name: str
    digest: str
    merged: Merged
    lane: Lane
    root: str
    cache_bytes: int
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def bytes(self) -> int:
        """Memory that goes back when it is unloaded."""
        return self.merged.own_bytes + self.cache_bytes


class Versions:
    """The registry. Its methods run on the event loop, the heavy parts in threads."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._served: dict[str, ServedVersion] = {}
        self._draining: set[str] = set()
        self._loading = asyncio.Lock()  # one load or unload at a time
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._turns = Turns(options.cores // options.threads)
        self._weights: Weights | None = None
        self.chat: ChatTokenizer | None = None
        self.max_model_len = 0
        self._cache_tokens = 0
        self._token_bytes = 0

    async def load_base(self) -> None:
        """Read the base model and start its lane. Raises ArtifactError when its files are not its manifest's."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        version = await asyncio.to_thread(self._prepare_base, loop)
        await self._warm_up(version)
        self._served[version.name] = version
        gc.freeze()  # what exists now stays: later collections need not walk through it
        log.info("%s is ready after %.1f s", version.name, time.monotonic() - began)

    async def load(self, name: str, path: str) -> ServedVersion:
        """Load an adapter under `name`. The same name and digest again: the version that is served already."""
        async with self._loading:
            base = self._base()
            if name == base.name or name in self._draining:
                raise Conflict(f"{name} is taken", param="lora_name")
            began = time.monotonic()
            folder = await asyncio.to_thread(self._folder, path)
            manifest = await asyncio.to_thread(_checked, folder)
            known = self._served.get(name)
            if known is not None:
                if known.digest == manifest["digest"]:
                    return known
                raise Conflict(
                    f"{name} is loaded with digest {known.digest}: load the new one under a new name"
                )
            self._refuse_too_much()
            loop = asyncio.get_running_loop()
            version = await asyncio.to_thread(self._prepare, name, folder, manifest, loop)
            try:
                await self._warm_up(version)
            except BaseException:
                await version.lane.stop()
                raise
            self._served[name] = version
            seconds = time.monotonic() - began
            self._metrics.load_seconds.observe(seconds)
            log.info("%s is ready after %.2f s, merge error %.3f, %s", name, seconds, version.merged.error or 0,
                     version.merged.dtype)  # fmt: skip
            return version

    async def unload(self, name: str) -> None:
        """Hide the name, wait for its answers, let its memory go."""
        async with self._loading:
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
            log.exception("%s did not drain; its answers fail", name)
        finally:
            await version.lane.stop()
            self._draining.discard(name)
            self._metrics.forget(name)
            log.info("%s is unloaded", name)

    def get(self, name: str) -> ServedVersion:
        self._base()
        version = self._served.get(name)
        if version is None:
            raise NotFound(f"the model {name!r} is not served here", param="model")
        return version

    def all(self) -> list[ServedVersion]:
        return list(self._served.values())

    @property
    def is_ready(self) -> bool:
        """Base loaded, every generation thread alive."""
        return bool(self._served) and all(version.lane.is_alive for version in self._served.values())

    def waiting(self) -> int:
        return sum(version.lane.waiting for version in self._served.values())

    def card(self, version: ServedVersion) -> dict[str, Any]:
        """One entry of GET /v1/models: vLLM's fields, and ours under `ratchet`."""
        is_base = version.name == self._options.served_name
        error = version.merged.error
        return {
            "id": version.name,
            "object": "model",
            "created": version.created,
            "owned_by": "ratchet",
            "root": version.root,
            "parent": None if is_base else self._options.served_name,
            "max_model_len": self.max_model_len,
            "ratchet": {
                "digest": version.digest,
                "bytes": version.bytes,
                "merge_error": error,
                "logit_shift": version.merged.shift,
                "dtype": str(version.merged.dtype).removeprefix("torch."),
                "running": version.lane.running,
                "waiting": version.lane.waiting,
            },
        }

    async def watch(self) -> None:
        """Start a new thread wherever one died. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(0.1)
            for version in self.all():
                if not version.lane.is_alive:
                    version.lane.restart()
                    self._metrics.restarts.labels(version.name).inc()
                    await asyncio.sleep(1)  # a thread that dies at once must not take all of the machine

    async def stop(self) -> None:
        for version in self.all():
            await version.lane.stop()

    def _base(self) -> ServedVersion:
        base = self._served.get(self._options.served_name)
        if base is None:
            raise Unavailable("the model is still being loaded", code="loading")
        return base

    def _prepare_base(self, loop: asyncio.AbstractEventLoop) -> ServedVersion:
        folder = self._options.model.resolve()
        manifest = _checked(folder) if (folder / MANIFEST).exists() else {"digest": _digest_of_folder(folder)}
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        dtype = serving_dtype(self._options.dtype, self._device)
        self._weights = weights = Weights(folder, dtype=dtype, device=self._device)
        self.chat = ChatTokenizer(tokenizer, weights.base.model.generation_config.eos_token_id)
        self._plan_memory(weights)
        version = self._version(self._options.served_name, manifest["digest"], weights.base, str(folder))
        version.lane.start(loop)
        return version

    def _prepare(
        self, name: str, folder: Path, manifest: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> ServedVersion:
        assert self._weights is not None
        torch.set_num_threads(self._options.threads)
        merged = self._weights.merge(folder, manifest, self._turns)
        version = self._version(name, manifest["digest"], merged, str(folder))
        version.lane.start(loop)
        return version

    def _version(self, name: str, digest: str, merged: Merged, root: str) -> ServedVersion:
        assert self.chat is not None
        lane = Lane(
            merged.model,
            eos=self.chat.eos,
            cache_tokens=self._cache_tokens,
            max_running=self._options.max_running,
            threads=self._options.threads,
            turns=self._turns,
        )
        cache_bytes = self._cache_tokens * self._token_bytes * merged.dtype.itemsize
        return ServedVersion(name, digest, merged, lane, root, cache_bytes)

    def _plan_memory(self, weights: Weights) -> None:
        """Divide the memory: each planned version gets its weights and an equal cache."""
        config = weights.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._token_bytes = 2 * config.num_hidden_layers * heads * width  # keys and values, in numbers
        # The checkpoint, the base as served, and an adapted copy for each other planned version.
        spent = (PLANNED_VERSIONS + 1) * weights.base.own_bytes
        share = (self._options.memory_gb * GIB - spent) / PLANNED_VERSIONS
        affordable = int(share / (self._token_bytes * weights.dtype.itemsize))
        self.max_model_len = min(self._options.max_model_len, config.max_position_embeddings)
        if affordable < self.max_model_len:
            raise OutOfMemory(f"--memory-gb {self._options.memory_gb} is too little for this model: "
                              f"{self.max_model_len} tokens do not fit beside {spent / GIB:.1f} GiB of weights")  # fmt: skip
        self._cache_tokens = min(affordable, max(self._options.max_running * USUAL_TOKENS, self.max_model_len))

    def _refuse_too_much(self) -> None:
        assert self._weights is not None
        used = 2 * self._weights.base.own_bytes + sum(version.bytes for version in self.all())
        needed = (
            self._weights.base.own_bytes
            + self._cache_tokens * self._token_bytes * self._weights.dtype.itemsize
        )
        if used + needed > self._options.memory_gb * GIB:
            raise OutOfMemory(f"no memory for another version ({used / GIB:.1f} of {self._options.memory_gb} GiB "
                              "in use): unload one, or raise --memory-gb")  # fmt: skip

    def _folder(self, path: str) -> Path:
        """The adapter's folder, which must lie under the artifacts folder, links followed."""
        root = self._options.artifacts_dir.resolve()
        folder = (root / path).resolve()
        if not folder.is_relative_to(root) or folder == root:
            raise InvalidRequest("lora_path must lie under the engine's artifacts folder", param="lora_path")
        if not folder.is_dir():
            raise NotFound(f"there is no folder {path}", code="no_such_adapter", param="lora_path")
        return folder

    async def _warm_up(self, version: ServedVersion) -> None:
        """Make some answers before anyone waits for one: kernels are built at first use of a shape."""
        assert self.chat is not None
        queue: asyncio.Queue[Event] = asyncio.Queue()
        prompt = self.chat.encode([{"role": "user", "content": "Hello"}])[: self.max_model_len - 8]
        count = min(8, self._options.max_running)
        greedy = Sampling(temperature=0.0, top_p=1.0, top_k=1, key=0)
        # Each ends a step before the next, so that every size of batch is met once.
        version.lane.submit(
            [Generation(i, prompt, greedy, min(1 + i, 8), False, queue) for i in range(count)]
        )
        left = count
        while left:
            event = await asyncio.wait_for(queue.get(), 120)
            if event.error:
                raise InvalidRequest(f"the version does not answer: {event.error}", code="bad_adapter")
            left -= event.finish is not None


def _checked(folder: Path) -> dict[str, Any]:
    return verify(folder, servable=True)


def _digest_of_folder(folder: Path) -> str:
    """A digest for a model that came without a manifest: of the files as they are."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return digest_of(files)
