"""API keys for REST and the OpenAI protocol: who calls, for which project, with which scopes."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from projects.errors import Forbidden, NotAuthenticated
from projects.limits import spend_for
from projects.models import ApiKey

LAST_USED_EVERY = timedelta(minutes=1)
_KEY = re.compile(r"rk_(?P<prefix>[A-Za-z0-9]{1,12})_[A-Za-z0-9_-]{1,100}")


def authenticate_key(request: HttpRequest, *, scope: str) -> ApiKey:
    """The usable key in the Authorization header. Raises NotAuthenticated, TooMany or Forbidden.

    Keys are taken from that one header only: a key in a URL ends in logs.
    """
    key = find_key(_bearer(request.headers.get("Authorization", "")))
    spend_for(request, f"key:{key.pk}", limit=settings.RATE_LIMIT_KEY)
    if scope not in key.scopes:
        raise Forbidden(f"This key lacks the scope {scope}.")
    return key


def find_key(value: str) -> ApiKey:
    """The stored key with this value, its last use noted. Raises NotAuthenticated."""
    form = _KEY.fullmatch(value)
    if form is None:
        raise NotAuthenticated()
    found = ApiKey.objects.order_by().select_related("project").filter(prefix=form["prefix"])
    key = next(iter(found), None)
    if key is None or not key.opens_with(value) or not key.is_usable:
        raise NotAuthenticated()
    now = timezone.now()
    if key.last_used is None or now - key.last_used > LAST_USED_EVERY:
        stale = Q(last_used=None) | Q(last_used__lt=now - LAST_USED_EVERY)
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used=now)
    return key


def _bearer(header: str) -> str:
    """What follows `Bearer`. Two headers arrive as one with a comma, and no key has a comma."""
    kind, _, value = header.partition(" ")
    if kind.lower() != "bearer":
        raise NotAuthenticated()
    return value.strip()


class ApiKeyAuthentication(BaseAuthentication):
    """DRF: `request.auth` is the ApiKey; there is no user behind a program."""

    def authenticate(self, request: Request) -> tuple[None, ApiKey] | None:
        header = request.headers.get("Authorization", "")
        if not header:
            return None
        key = find_key(_bearer(header))
        spend_for(request._request, f"key:{key.pk}", limit=settings.RATE_LIMIT_KEY)
        return None, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasScope(BasePermission):
    """Deny by default: a view names the scope that its method needs in `scopes = {"POST": "..."}`."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, ApiKey):
            raise NotAuthenticated()
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method == "OPTIONS" or not hasattr(view, method.lower()):
            raise MethodNotAllowed(method)
        needed = getattr(view, "scopes", {}).get(method)
        if needed is None or needed not in request.auth.scopes:
            raise Forbidden(f"This key lacks the scope {needed}." if needed else None)
        return True


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its base is untyped
    """Shows the key in the OpenAPI schema."""

    target_class = ApiKeyAuthentication
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "rk_<prefix>_<secret>"}
