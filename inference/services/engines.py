"""The engines that are configured: their clients, and which to ask for a version first."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings

from inference.client import EngineClient, EngineError, EngineUnavailable
from inference.models import Replica

# An engine that refused a connection is asked last for this long.
AVOID_SECONDS = 2.0

_lock = threading.Lock()
_in_flight: Counter[str] = Counter()
_avoid_until: dict[str, float] = {}


def engine_clients() -> list[EngineClient]:
    """A client for each of ENGINE_URLS, kept with its connections."""
    return [_client(url, settings.ENGINE_API_KEY) for url in settings.ENGINE_URLS]


def client_of(url: str) -> EngineClient:
    return _client(url, settings.ENGINE_API_KEY)


@dataclass(frozen=True)
class EngineChoice:
    """An engine to ask, with what the reconciler last saw of it."""

    url: str
    lacks_it: bool
    is_unhealthy: bool


def engines_for(engine_name: str) -> list[EngineChoice]:
    """All engines, with what is known of each about this name. None is left out: that may be old."""
    rows = {row.url: row for row in Replica.objects.all()}
    choices = []
    for url in settings.ENGINE_URLS:
        row = rows.get(url)
        choices.append(
            EngineChoice(
                url=url,
                lacks_it=row is not None and engine_name not in row.loaded,
                is_unhealthy=row is not None and not row.is_healthy,
            )
        )
    return choices


def in_order(choices: list[EngineChoice]) -> list[str]:
    """The URLs, the best to ask now first: healthy, holding the version, and with the fewest answers.

    Uses no database: call it right before asking, so that requests of one moment are spread.
    """
    now = time.monotonic()

    def order(choice: EngineChoice) -> tuple[bool, bool, int]:
        is_doubtful = choice.is_unhealthy or now < _avoid_until.get(choice.url, 0)
        return is_doubtful, choice.lacks_it, _in_flight[choice.url]

    return [choice.url for choice in sorted(choices, key=order)]


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Counts an answer in the making, and remembers an engine that could not be reached."""
    with _lock:
        _in_flight[url] += 1
    try:
        yield
    except EngineUnavailable:
        _avoid_until[url] = time.monotonic() + AVOID_SECONDS
        raise
    finally:
        with _lock:
            _in_flight[url] -= 1


def worst_of(errors: list[EngineError]) -> EngineError:
    """Of what all engines said, what the caller should hear: a refusal, else busy, else unavailable."""
    return min(errors, key=lambda error: _RANK.get(type(error).__name__, 9))


_RANK = {"EngineRefused": 0, "EngineBroken": 1, "EngineBusy": 2, "EngineUnavailable": 3, "ModelMissing": 4}


@lru_cache(maxsize=64)
def _client(url: str, api_key: str) -> EngineClient:
    return EngineClient(url, api_key=api_key)
