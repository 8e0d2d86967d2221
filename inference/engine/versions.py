"""Which versions are served: the base, and adapters loaded and unloaded beside the traffic.

A load that fails changes nothing. A name always means the same weights: another digest under a loaded name is
a conflict. Unloading hides the name at once and waits for the answers that began under it. When memory is
short, a load unloads what was not asked for the longest: never what answers, what is pinned, or the base.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from typing import Any

from inference.engine.errors import Conflict, InvalidRequest, NotFound, OutOfMemory, Unavailable
from inference.engine.maker import Base, Maker
from inference.engine.memory import GIB, give_back
from inference.engine.metrics import Metrics
from inference.engine.options import Options
from inference.engine.served import ServedVersion

log = logging.getLogger("ratchet.engine")
DRAIN_GRACE_S = 5.0  # beyond the deadline of a request
WARM_UP = 8  # answers at once, for the base; its kernels serve the other versions too
RESTART_PAUSE_S = 1.0  # a thread that dies at once must not take all of the machine
SILENT_S = 1.0  # a version that nobody asked for so long gives back what its last answers took


class Versions:
    """The registry. Its methods run on the event loop, the heavy parts in threads."""

    def __init__(self, options: Options, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._maker = Maker(options)
        self._base: Base | None = None
        self._served: dict[str, ServedVersion] = {}
        self._draining: dict[str, ServedVersion] = {}
        self._loading = asyncio.Lock()  # one load at a time

    # What is served -----------------------------------------------------------------------------------------

    @property
    def base(self) -> Base:
        """Raises Unavailable while the base model is being loaded."""
        if self._base is None:
            raise Unavailable("the model is still being loaded", code="loading")
        return self._base

    def get(self, name: str) -> ServedVersion:
        """The version that a request names. Raises NotFound for a name that is not served, or no more."""
        version = self._served.get(name)
        if version is None:
            raise NotFound(f"the model {name!r} is not served here", param="model")
        version.asked = time.monotonic()
        return version

    def all(self) -> list[ServedVersion]:
        return list(self._served.values())

    def waiting(self) -> int:
        """Answers that wait, of all versions."""
        return sum(version.lane.waiting for version in self.all())

    def waiting_tokens(self) -> int:
        """Tokens that the waiting answers may have, with their prompts."""
        return sum(version.lane.waiting_tokens for version in self.all())

    def health(self) -> dict[str, Any]:
        """`status` is loading, ok or degraded: `dead` threads are being replaced, `stuck` ones cannot be.

        `restarts` counts the threads that were replaced, by version.
        """
        if not self._served:
            return {"status": "loading"}
        lanes = {version.name: version.lane for version in self.all()}
        dead = [name for name, lane in lanes.items() if lane.has_died]
        stuck = [name for name, lane in lanes.items() if lane.step_s > self._options.gap_timeout_s]
        lists = {"dead": dead, "stuck": stuck}
        restarts = {name: lane.restarts for name, lane in lanes.items() if lane.restarts}
        return {
            "status": "degraded" if dead or stuck else "ok",
            **{kind: names for kind, names in lists.items() if names},
            **({"restarts": restarts} if restarts else {}),
        }

    # Changing it --------------------------------------------------------------------------------------------

    async def load_base(self) -> None:
        """Read the base model and serve it. Raises ArtifactError when its files are not its manifest's."""
        began = time.monotonic()
        base, version = await asyncio.to_thread(self._maker.base, asyncio.get_running_loop())
        await self._maker.warm_up(version, base, answers=min(WARM_UP, self._options.max_running))
        self._base, self._served[version.name] = base, version
        await asyncio.to_thread(give_back)
        gc.freeze()  # what exists now stays: later collections need not walk through it
        log.info("%s is ready after %.1f s", version.name, time.monotonic() - began)

    async def load(self, name: str, path: str, *, pinned: bool | None = None) -> ServedVersion:
        """Load an adapter under `name`. Same name, same digest: the version that is served already.

        `pinned` says whether it may make room for others; None leaves that as it is, at first False.
        """
        base = self.base
        async with self._loading:
            if name == self._options.served_name or name in self._draining:
                raise Conflict(f"{name} is taken: choose another name", param="lora_name")
            began = time.monotonic()
            checked = await asyncio.to_thread(self._maker.check, path, base)
            known = self._served.get(name)
            if known is not None and known.digest != checked.digest:
                raise Conflict(f"{name} is loaded with digest {known.digest}: load this one under a new name")
            if known is not None:
                known.is_pinned = known.is_pinned if pinned is None else pinned
                return known
            await self._make_room(checked.bytes, base)
            merged = await asyncio.to_thread(self._maker.merge, checked, base)
            # In fp32, because bf16 would lose the update, it takes more than was thought.
            await self._make_room(merged.own_bytes + base.memory.cache_bytes(merged.dtype), base)
            version = await asyncio.to_thread(self._maker.version, name, checked, merged, base)
            try:
                await self._maker.warm_up(version, base, answers=1)
            except BaseException:
                await version.lane.stop()
                raise
            version.is_pinned = bool(pinned)
            self._served[name] = version
            await asyncio.to_thread(give_back)
            seconds = time.monotonic() - began
            self._metrics.load_seconds.observe(seconds)
            log.info("%s is ready after %.2f s: %s", name, seconds, version.card()["ratchet"])
            return version

    async def unload(self, name: str) -> None:
        """Hide the name, wait for its answers, let its memory go."""
        if name == self._options.served_name:
            raise InvalidRequest("the base model cannot be unloaded", param="lora_name")
        version = self._served.pop(name, None)
        if version is None:
            raise NotFound(f"{name} is not loaded", param="lora_name")
        self._draining[name] = version
        try:
            async with asyncio.timeout(self._options.request_timeout_s + DRAIN_GRACE_S):
                await version.lane.drained()
        except TimeoutError:
            log.error("%s did not drain: its last answers fail", name)  # noqa: TRY400 - no trace is of use
        finally:
            await version.lane.stop()
            del self._draining[name]
            self._metrics.forget(name)
        del version
        await asyncio.sleep(0.1)  # the worker that stopped the lane lets go of it a moment later
        await asyncio.to_thread(give_back)
        log.info("%s is unloaded", name)

    async def watch(self) -> None:
        """Start a new thread wherever one died, and give memory back when a version falls silent.

        Runs until it is cancelled.
        """
        gave_back = time.monotonic()
        while True:
            await asyncio.sleep(0.1)
            silent = time.monotonic() - SILENT_S
            if any(version.is_idle and gave_back < version.asked < silent for version in self.all()):
                await asyncio.to_thread(give_back)
                gave_back = silent
            for version in [*self.all(), *self._draining.values()]:
                if version.lane.has_died:
                    self._metrics.restarts.labels(version.name).inc()
                    version.lane.restart()
                    await asyncio.sleep(RESTART_PAUSE_S)

    async def stop(self) -> None:
        """End every thread; what is being answered fails."""
        for version in self.all():
            await version.lane.stop()

    async def _make_room(self, needed: int, base: Base) -> None:
        """Unload the least recently used until `needed` bytes are free, or none: raises OutOfMemory."""
        while (lacking := base.memory.lacking(needed, used=self._used())) > 0:
            idle = sorted((one for one in self.all() if one.may_make_room), key=lambda one: one.asked)
            if sum(version.bytes for version in idle) < lacking:
                raise OutOfMemory(
                    f"no memory for a version: of {needed / GIB:.2f} GiB {lacking / GIB:.2f} are missing, "
                    "and versions that are pinned or answer stay: unload one, or raise --memory-gb"
                )
            log.info("%s makes room: it was not asked for the longest", idle[0].name)
            self._metrics.evicted.inc()
            await self.unload(idle[0].name)

    def _used(self) -> int:
        """Bytes of all versions, of those that are leaving too."""
        return sum(version.bytes for version in [*self.all(), *self._draining.values()])
