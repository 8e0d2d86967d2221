"""Rate limits: so many requests a minute for a key, so many judgements a minute for a person.

The count is a row a caller and minute. So that a request costs no write, a process takes requests from the
row in chunks of a hundredth of the limit and hands them out from memory; a small limit is counted one by one.
A limit is never exceeded; with several processes a few hundredths of it may stay unused.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from django.db.models import F
from django.http import HttpRequest, HttpResponseBase

from projects.errors import TooMany
from projects.models import RateWindow

WINDOW_SECONDS = 60
CHUNKS = 100  # of a limit


@dataclass
class _Taken:
    """What this process holds of one caller's window."""

    window: int
    left: int = 0  # taken from the row and not handed out
    used: int = 0  # of the row, when it was last looked at
    is_spent: bool = False


@dataclass(frozen=True)
class Allowance:
    """What the headers say: the limit, what is left of it, and the seconds until it is whole again."""

    limit: int
    remaining: int
    reset: int


_lock = threading.Lock()
_held: dict[str, _Taken] = {}


def spend(caller: str, *, limit: int, now: float | None = None) -> Allowance:
    """Take one request of the caller's `limit` a minute. Raises TooMany when it is used up."""
    now = time.time() if now is None else now
    window = int(now) // WINDOW_SECONDS * WINDOW_SECONDS
    reset = window + WINDOW_SECONDS - int(now)
    with _lock:
        taken = _held.get(caller)
        if taken is None or taken.window != window:
            if len(_held) > 10_000:  # callers of windows that are over
                _held.clear()
            taken = _held[caller] = _Taken(window)
        if taken.left > 0:
            taken.left -= 1
            return Allowance(limit, max(0, limit - taken.used + taken.left), reset)
        is_spent = taken.is_spent
    chunk = 0 if is_spent else _take(taken, caller, limit)
    if chunk == 0:
        taken.is_spent = True
        raise TooMany(f"More than {limit} requests a minute. Go on in {reset} s.", retry_after=reset)
    with _lock:
        taken.left += chunk - 1
        return Allowance(limit, max(0, limit - taken.used + taken.left), reset)


def spend_for(request: HttpRequest, caller: str, *, limit: int) -> None:
    """Spend for this request, and have its answer say what is left. A limit of 0 is none."""
    if limit <= 0:
        return
    try:
        request.allowance = spend(caller, limit=limit)  # type: ignore[attr-defined]  # read by add_headers
    except TooMany as refusal:
        request.allowance = Allowance(limit, 0, refusal.retry_after or 1)  # type: ignore[attr-defined]  # as above
        raise


def add_headers(request: HttpRequest, response: HttpResponseBase) -> None:
    """RateLimit-Limit, -Remaining and -Reset of what was spent for this request."""
    allowance: Any = getattr(request, "allowance", None)
    if allowance is not None:
        response["RateLimit-Limit"] = str(allowance.limit)
        response["RateLimit-Remaining"] = str(allowance.remaining)
        response["RateLimit-Reset"] = str(allowance.reset)


def forget_windows() -> int:
    """Delete windows that are over; returns how many rows."""
    return RateWindow.objects.filter(window__lt=time.time() - 10 * WINDOW_SECONDS).delete()[0]


def forget_held() -> None:
    """Give up what this process holds, as a new process would begin."""
    with _lock:
        _held.clear()


def _take(taken: _Taken, caller: str, limit: int) -> int:
    """A chunk from the row; 0 when nothing is left in it."""
    row = RateWindow.objects.filter(caller=caller, window=taken.window)
    for chunk in (max(1, limit // CHUNKS), 1):
        if row.filter(used__lte=limit - chunk).update(used=F("used") + chunk):
            break
        if not row.exists():
            RateWindow.objects.bulk_create(
                [RateWindow(caller=caller, window=taken.window)], ignore_conflicts=True
            )
            if row.filter(used__lte=limit - chunk).update(used=F("used") + chunk):
                break
    else:
        return 0
    taken.used = row.values_list("used", flat=True).get()
    return chunk
