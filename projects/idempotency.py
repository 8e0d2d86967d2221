"""`Idempotency-Key`: a POST that is sent again is done once, and answered as it was the first time.

    @idempotent()
    def post(self, request): ...

A row claims the name by its insert. The answer is written to it in the transaction of what was done, so both
are committed or neither. A refusal releases the name: nothing was done, and a mended request may use it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from functools import wraps
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse, HttpResponseBase
from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from projects.bodies import Lines
from projects.errors import Conflict, Invalid
from projects.models import ApiKey, IdempotentRequest

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEPT = timedelta(hours=24)
# How long a claim without an answer holds: a process that died must not hold it for ever.
LOCK, LONG_LOCK = timedelta(seconds=60), timedelta(minutes=15)
_NAME = re.compile(r"[\x21-\x7e]{1,255}")
Handler = Callable[..., Response]


class InFlight(Conflict):
    code = "idempotency_in_flight"
    message = "A request with this Idempotency-Key is being worked on. Ask again for its answer."


class KeyReused(Invalid):
    code = "idempotency_key_reused"
    message = "This Idempotency-Key came with another request before. Take a new one for each request."

    def __init__(self) -> None:
        super().__init__(param=HEADER)


def idempotent(*, hide: tuple[str, ...] = (), atomic: bool = True) -> Callable[[Handler], Callable[..., Any]]:
    """For a view's `post`. `hide` names secrets, which are null when the answer is given again.

    `atomic=False` is for work that commits in steps or waits for others, such as loading a version. If its
    process dies in between, it can be done again after a quarter of an hour, so it must bear that.
    """

    def decorate(post: Handler) -> Callable[..., Any]:
        @wraps(post)
        def handler(view: Any, request: Request, *args: Any, **kwargs: Any) -> HttpResponseBase:
            name = request.headers.get(HEADER)
            if name is None:
                return post(view, request, *args, **kwargs)
            if not _NAME.fullmatch(name):
                raise Invalid(f"{HEADER} must be 1 to 255 visible ASCII characters.", param=HEADER)
            assert isinstance(request.auth, ApiKey)  # noqa: S101 - by HasScope
            claim = _claim(request.auth, name, request, LOCK if atomic else LONG_LOCK)
            if claim.status is not None:
                return _again(claim, request)
            try:
                with transaction.atomic() if atomic else nullcontext():
                    response = post(view, request, *args, **kwargs)
                    if not _keep(claim, request, response, hide) and atomic:
                        raise InFlight(retry_after=1)  # it outlasted its claim, and another took it over
            except BaseException:
                IdempotentRequest.objects.filter(pk=claim.pk, status=None).delete()
                raise
            return response

        handler.is_idempotent = True  # type: ignore[attr-defined]  # read by the OpenAPI schema and a test
        return handler

    return decorate


def forget_requests() -> int:
    """Delete what is older than a day; returns how many rows."""
    return IdempotentRequest.objects.filter(created__lt=timezone.now() - KEPT).delete()[0]


def _claim(key: ApiKey, name: str, request: Request, lock: timedelta) -> IdempotentRequest:
    """A claim of ours, or the answered one. Raises InFlight and KeyReused."""
    digest = _digest(request)
    now = timezone.now()
    IdempotentRequest.objects.filter(api_key=key, name=name, created__lt=now - KEPT).delete()
    try:
        with transaction.atomic():
            return IdempotentRequest.objects.create(
                api_key=key, name=name, digest=digest, locked_until=now + lock
            )
    except IntegrityError:
        first = IdempotentRequest.objects.filter(api_key=key, name=name).first()
    if first is None:  # refused in this very moment
        raise InFlight(retry_after=1)
    if digest and first.digest and first.digest != digest:
        raise KeyReused
    if first.status is not None:
        return first
    # Its process is gone: whoever moves the lock may try.
    taken = IdempotentRequest.objects.filter(pk=first.pk, status=None, locked_until__lt=now).update(
        locked_until=now + lock, digest=digest
    )
    if not taken:
        raise InFlight(retry_after=1)
    first.locked_until, first.digest = now + lock, digest
    return first


def _again(first: IdempotentRequest, request: Request) -> HttpResponse:
    if isinstance(request.data, Lines) and _digest_of(request, request.data.digest()) != first.digest:
        raise KeyReused
    headers = {REPLAYED: "true"}
    return HttpResponse(first.answer, status=first.status, content_type="application/json", headers=headers)


def _keep(claim: IdempotentRequest, request: Request, response: Response, hide: tuple[str, ...]) -> bool:
    """Write the answer to the claim, while it is ours."""
    shown = {**response.data, **dict.fromkeys(hide)} if hide else response.data
    digest = claim.digest
    if isinstance(request.data, Lines):
        digest = _digest_of(request, request.data.digest())
    answer = JSONRenderer().render(shown).decode()
    ours = IdempotentRequest.objects.filter(pk=claim.pk, status=None, locked_until=claim.locked_until)
    return bool(ours.update(status=response.status_code, answer=answer, digest=digest))


def _digest(request: Request) -> str:
    """What the request says; empty for lines, which are known when they were read."""
    if isinstance(request.data, Lines):
        return ""
    canonical = json.dumps(request.data, sort_keys=True, separators=(",", ":"))
    return _digest_of(request, hashlib.sha256(canonical.encode()).hexdigest())


def _digest_of(request: Request, body: str) -> str:
    said = f"{request.method} {request.get_full_path()} {body}"
    return hashlib.sha256(said.encode()).hexdigest()
