"""What every page knows about the engine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache

from django.http import HttpRequest
from django.utils import timezone

from inference.models import Replica

# The reconciler looks every few seconds; older news says nothing about now.
FRESH = timedelta(minutes=2)


def engine(request: HttpRequest) -> dict[str, Callable[[], bool]]:
    """`engine_is_down`, looked up only where a template asks."""
    return {"engine_is_down": cache(engine_is_down)}


def engine_is_down() -> bool:
    """True when the reconciler lately looked at every engine and none was healthy."""
    seen = list(
        Replica.objects.filter(checked__gt=timezone.now() - FRESH).values_list("is_healthy", flat=True)
    )
    return bool(seen) and not any(seen)
