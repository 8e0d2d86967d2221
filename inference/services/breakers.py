"""What this process knows of each engine from asking it: whether it is worth asking now.

Closed      it answers
open        it refused, died or fell silent; requests go elsewhere while a thread looks at its /health
half-open   /health answers again: one request at a time may try it, until one gets its first token

So no request pays for finding out that an engine is back, and at most one for finding out that it is not.
An engine that fell silent is not asked at all while it is open: it would hold a request to its deadline.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

import httpx
from django.conf import settings

from inference.client import EngineClient, EngineSilent, EngineUnavailable

# How long after it failed an engine is looked at, doubled up to the longest.
FIRST_LOOK_SECONDS = 0.25
LONGEST_LOOK_SECONDS = 2.0
# An engine that said nothing for so long is asked whether it lives, which it has to answer as fast.
PULSE_SECONDS = 2.0


@dataclass
class Breaker:
    """One engine's. Safe to use from threads and from the event loop; no database here."""

    client: EngineClient
    is_open: bool = False
    is_silent: bool = False  # opened by silence, not by a refusal
    on_trial: int = 0  # failures since it was last closed; above 0 and not open is half-open
    trying: int = 0  # requests that try it while it is half-open
    heard: float = 0.0  # time.monotonic() of its last sign
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pulse: asyncio.Task[bool] | None = None

    @property
    def is_doubtful(self) -> bool:
        """True while others are to be asked first."""
        return self.is_open or (self.on_trial > 0 and self.trying > 0)

    @property
    def is_shut_out(self) -> bool:
        return self.is_open and self.is_silent

    def succeeded(self) -> None:
        """It gave a token, or another sign that it does its work."""
        self.heard = time.monotonic()
        if self.on_trial:
            with self._lock:
                self.is_open, self.is_silent, self.on_trial = False, False, 0

    def failed(self, error: EngineUnavailable) -> None:
        """Open it, and have a thread look when it comes back."""
        with self._lock:
            was_open, self.is_open = self.is_open, True
            self.is_silent = isinstance(error, EngineSilent)
            self.on_trial += 1
            if was_open:
                return
        threading.Thread(target=self._look, name=f"breaker {self.client.url}", daemon=True).start()

    def _look(self) -> None:
        wait = min(FIRST_LOOK_SECONDS * 2 ** (self.on_trial - 1), LONGEST_LOOK_SECONDS)
        while self.client.url in {url.rstrip("/") for url in settings.ENGINE_URLS}:
            time.sleep(wait)
            if self.client.is_healthy(timeout=PULSE_SECONDS):
                break
            wait = min(wait * 2, LONGEST_LOOK_SECONDS)
        with self._lock:
            self.is_open = self.is_silent = False

    async def is_alive(self, http: httpx.AsyncClient) -> bool:
        """False when it has been silent and does not answer /health either. Many may wait for one look."""
        if time.monotonic() - self.heard < PULSE_SECONDS:
            return True
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.create_task(self._take_pulse(http))
        return await asyncio.shield(self._pulse)

    async def _take_pulse(self, http: httpx.AsyncClient) -> bool:
        try:
            await http.get(f"{self.client.url}/health", timeout=PULSE_SECONDS)
        except httpx.TimeoutException:
            return False
        except httpx.HTTPError:
            return True  # what is refused or breaks off ends the stream by itself
        self.heard = time.monotonic()
        return True
