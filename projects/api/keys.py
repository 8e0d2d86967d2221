"""Keys by REST: made, rotated, revoked. A value is shown once, and only its sha256 is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.api.answers import KeySerializer, NewKeySerializer
from projects.api.bodies import KeyBody, RotateBody
from projects.bodies import parse_body
from projects.errors import Forbidden, NotFound
from projects.idempotency import idempotent
from projects.models import ApiKey
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor, create_api_key, revoke_api_key, rotate_api_key


class CreateKey(APIView):
    """A new key of this project. Its value is shown this once."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="create_key",
        request=KeyBody,
        responses={201: NewKeySerializer, 403: ErrorSerializer, 422: ErrorSerializer},
    )
    @idempotent(hide=("key",))
    def post(self, request: Request) -> Response:
        mine = key_of(request)
        read_query(request)
        body = parse_body(KeyBody, request.data)
        lacking = sorted((set(body.scopes) & set(ApiKey.Scope.values)) - set(mine.scopes))
        if lacking:
            raise Forbidden(
                f"A key can give only scopes that it has itself, and this one lacks {lacking[0]}."
            )
        key, value = create_api_key(
            project=mine.project,
            name=body.name,
            scopes=body.scopes,
            expires=body.expires,
            actor=Actor(api_key=mine),
        )
        return Response(_with_value(key, value), status=201)


class ListKeys(APIView):
    """The project's keys, without their values; also expired and revoked ones."""

    scopes = {"GET": "manage"}

    @extend_schema(
        operation_id="list_keys",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(KeySerializer, "Key"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="keys", key=key)
        rows = paging.rows(ApiKey.objects.filter(project=key.project_id), "id")
        return Response(paging.answer(rows, "id", as_data=lambda items: KeySerializer(items, many=True).data))


class RotateKey(APIView):
    """Another value for a key. The one before is good for `grace_seconds` more (a day unless it is said)."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="rotate_key",
        request=RotateBody,
        responses={200: NewKeySerializer, 404: ErrorSerializer, 409: ErrorSerializer},
    )
    @idempotent(hide=("key",))
    def post(self, request: Request, key_id: UUID) -> Response:
        mine = key_of(request)
        read_query(request)
        body = parse_body(RotateBody, request.data)
        key, value = rotate_api_key(
            key=_find(mine, key_id),
            grace=timedelta(seconds=body.grace_seconds),
            actor=Actor(api_key=mine),
        )
        return Response(_with_value(key, value))


class RevokeKey(APIView):
    """The key is dead from now on. Twice is no error."""

    scopes = {"DELETE": "manage"}

    @extend_schema(operation_id="revoke_key", responses={200: KeySerializer, 404: ErrorSerializer})
    def delete(self, request: Request, key_id: UUID) -> Response:
        mine = key_of(request)
        read_query(request)
        key = _find(mine, key_id)
        revoke_api_key(key=key, actor=Actor(api_key=mine))
        key.refresh_from_db()
        return Response(KeySerializer(key).data)


def _find(mine: ApiKey, key_id: UUID) -> ApiKey:
    key = ApiKey.objects.select_related("project").filter(project=mine.project_id, pk=key_id).first()
    if key is None:
        raise NotFound("There is no such key in this project.")
    return key


def _with_value(key: ApiKey, value: str) -> Any:
    key.key = value  # type: ignore[attr-defined]  # shown in this answer, and nowhere kept
    return NewKeySerializer(key).data
