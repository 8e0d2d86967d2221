"""What the REST views share: operations at one path, checked query parameters, signed keyset cursors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from django.core.signing import BadSignature, Signer
from django.db.models import Model, Q, QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from projects.bodies import read_uuid
from projects.errors import Invalid
from projects.models import ApiKey

MAX_LIMIT = 200
DEFAULT_LIMIT = 50


class UtcField(serializers.DateTimeField):
    """ISO 8601 in UTC, whatever the time zone of the pages."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(default_timezone=UTC, **kwargs)


class ErrorObjectSerializer(serializers.Serializer[Any]):
    type = serializers.CharField()
    code = serializers.CharField()
    message = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    request_id = serializers.CharField()
    id = serializers.UUIDField(required=False, help_text="already_judged: the first judgement.")


class ErrorSerializer(serializers.Serializer[Any]):
    """The one error shape."""

    error = ErrorObjectSerializer()


def list_of(item: Any, name: str) -> Any:
    """The schema of one page of a list."""
    return type(
        f"{name}List",
        (serializers.Serializer,),
        {
            "items": serializers.ListField(child=item) if not isinstance(item, type) else item(many=True),
            "next": serializers.CharField(allow_null=True),
        },
    )


def key_of(request: Request) -> ApiKey:
    """The key that HasScope let in; `key_of(request).project` is what the request is about."""
    return cast(ApiKey, request.auth)


def at_one_path(*operations: type[APIView]) -> type[APIView]:
    """One view class of several operations, each a class with one method and its `scopes`."""
    scopes: dict[str, str] = {}
    long_methods = {method for one in operations for method in getattr(one, "long_methods", ())}
    for operation in operations:
        scopes |= getattr(operation, "scopes", {})
        for method in getattr(operation, "scopes", {}):
            # OpenAPI describes a handler by its own words before those of the class, which are lost here.
            handler = getattr(operation, method.lower())
            handler.__doc__ = handler.__doc__ or operation.__doc__
    return type(
        "And".join(one.__name__ for one in operations),
        operations,
        {"scopes": scopes, "long_methods": long_methods},
    )


def read_query(request: Request, *allowed: str) -> dict[str, str]:
    """The query parameters, each allowed one at most once. Raises Invalid."""
    found: dict[str, str] = {}
    for name, values in request.query_params.lists():
        if name not in allowed:
            known = f"There are: {', '.join(allowed)}." if allowed else "There are none here."
            raise Invalid(
                f"Unknown parameter {name[:80]!r}. {known}", param=name[:80], code="unknown_parameter"
            )
        if len(values) != 1:
            raise Invalid(f"The parameter {name} stands {len(values)} times.", param=name)
        if "\x00" in values[0]:
            raise Invalid(f"The parameter {name} holds NUL.", param=name, code="invalid_text")
        found[name] = values[0]
    return found


def uuid_in(query: dict[str, str], name: str) -> UUID:
    """The id in this parameter. Raises Invalid."""
    try:
        return read_uuid(query[name])
    except ValueError as error:
        raise Invalid(f"{name} {error}.", param=name) from error


@dataclass(frozen=True)
class Paging:
    """One page of a list, newest first: where it begins, and how long it is."""

    name: str
    project_id: str
    limit: int
    after: list[str] | None  # the last page's last values of the ordering fields

    @classmethod
    def read(cls, query: dict[str, str], *, name: str, key: ApiKey) -> Paging:
        """`limit` and `cursor` of a list called `name`. Raises Invalid."""
        paging = cls(name=name, project_id=str(key.project_id), limit=read_limit(query), after=None)
        if "cursor" not in query:
            return paging
        try:
            after = paging._signer.unsign_object(query["cursor"])
        except BadSignature as error:
            raise Invalid(
                "This cursor is not one that this list gave. Start again without it.",
                param="cursor",
                code="invalid_cursor",
            ) from error
        return cls(name=name, project_id=paging.project_id, limit=paging.limit, after=after)

    def rows(self, queryset: QuerySet[Any], *fields: str) -> list[Any]:
        """One row more than the page, in descending order of `fields`, which must be unique together."""
        if self.after is not None:
            queryset = queryset.filter(_beyond(fields, self.after))
        return list(queryset.order_by(*(f"-{field}" for field in fields))[: self.limit + 1])

    def answer(
        self, rows: Sequence[Any], *fields: str, as_data: Callable[[list[Any]], Any]
    ) -> dict[str, Any]:
        """`{"items": [...], "next": cursor or null}` of what `rows` returned."""
        items = list(rows[: self.limit])
        last = items[-1] if len(rows) > self.limit else None
        return {"items": as_data(items), "next": self._cursor(last, fields) if last is not None else None}

    def cursor_of(self, values: Sequence[str]) -> str:
        """A cursor that `after` reads back, for lists that are in no table."""
        return self._signer.sign_object(list(values))

    def _cursor(self, last: Model, fields: Sequence[str]) -> str:
        return self.cursor_of([_as_text(getattr(last, field)) for field in fields])

    @property
    def _signer(self) -> Signer:
        # A cursor of another list or project is as bad as a forged one.
        return Signer(salt=f"cursor:{self.name}:{self.project_id}")


def read_limit(query: dict[str, str]) -> int:
    """How long a page shall be. Raises Invalid."""
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_LIMIT:
        raise Invalid(f"limit must be 1 to {MAX_LIMIT}.", param="limit")
    return int(limit)


def _beyond(fields: Sequence[str], values: Sequence[str]) -> Q:
    """What comes after `values` in descending order: (a, b) < (x, y)."""
    first, value = fields[0], values[0]
    if len(fields) == 1:
        return Q(**{f"{first}__lt": value})
    # The first condition says nothing new, but lets the database begin inside its index.
    return Q(**{f"{first}__lte": value}) & (
        Q(**{f"{first}__lt": value}) | Q(**{first: value}) & _beyond(fields[1:], values[1:])
    )


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
