"""The engines that are configured: their clients, and which to ask for a version first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings

from inference.client import (
    EngineBroken,
    EngineBusy,
    EngineClient,
    EngineError,
    EngineRefused,
    EngineSilent,
    EngineUnavailable,
    ModelMissing,
)
from inference.models import Replica, Version
from inference.services.breakers import Breaker
from projects.models import Project

_lock = threading.Lock()
_in_flight: Counter[str] = Counter()


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


@dataclass(frozen=True)
class EngineShown:
    """An engine as a project's pages show it: what it holds and lacks of theirs, by engine name."""

    row: Replica
    holds: list[str]
    lacks: list[str]


def engines_shown(project: Project) -> list[EngineShown]:
    """Each engine; no member sees another project's names."""
    own = {
        version.engine_name for version in Version.objects.select_related("project").filter(project=project)
    }
    return [
        EngineShown(row, sorted(own & set(row.loaded)), sorted(own & set(row.missing)))
        for row in Replica.objects.all()
    ]


def in_order(choices: list[EngineChoice]) -> list[str]:
    """The URLs, the best to ask now first: healthy, holding the version, and with the fewest answers.

    Uses no database: call it right before asking, so that requests of one moment are spread. An engine that
    fell silent is left out until it answers again.
    """

    def order(choice: EngineChoice) -> tuple[bool, bool, int]:
        # What was seen here is newer than what the reconciler wrote down.
        is_doubtful = breaker_of(choice.url).is_doubtful or choice.is_unhealthy
        return is_doubtful, choice.lacks_it, _in_flight[choice.url]

    askable = [choice for choice in choices if not breaker_of(choice.url).is_shut_out]
    return [choice.url for choice in sorted(askable, key=order)]


@contextmanager
def answering(url: str) -> Iterator[Breaker]:
    """Counts an answer in the making, and notes on its breaker an engine that failed.

    Call the breaker's `succeeded` when the engine has given something.
    """
    breaker = breaker_of(url)
    is_trial = breaker.on_trial > 0
    with _lock:
        _in_flight[url] += 1
        breaker.trying += is_trial
    try:
        yield breaker
    except EngineUnavailable as error:
        breaker.failed(error)
        raise
    finally:
        with _lock:
            _in_flight[url] -= 1
            breaker.trying -= is_trial


def none_of(choices: list[EngineChoice]) -> EngineUnavailable:
    """When there was nobody to ask."""
    if not choices:
        return EngineUnavailable("ENGINE_URLS names no engine")
    return EngineSilent("no engine answers")


def worst_of(errors: list[EngineError]) -> EngineError:
    """Of what all engines said, what the caller should hear: a refusal, else busy, else unavailable."""
    return min(errors, key=_rank)


def _rank(error: EngineError) -> int:
    kinds = (ModelMissing, EngineUnavailable, EngineBusy, EngineBroken, EngineRefused)
    return -next(rank for rank, kind in enumerate((*kinds, EngineError)) if isinstance(error, kind))


@lru_cache(maxsize=64)
def breaker_of(url: str) -> Breaker:
    return Breaker(client_of(url))


@lru_cache(maxsize=64)
def _client(url: str, api_key: str) -> EngineClient:
    return EngineClient(url, api_key=api_key)
