"""Answers that flags set aside, by REST: the list, and the way back. The way in is a flag."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.models import SetAside
from feedback.services.set_aside import release_answer
from projects.api.bodies import NothingBody
from projects.bodies import parse_body
from projects.errors import Invalid
from projects.idempotency import idempotent
from projects.rest import ErrorSerializer, Paging, UtcField, key_of, list_of, read_query
from projects.services import Actor

STATES = {"standing": True, "released": False}


class SetAsideSerializer(serializers.ModelSerializer[SetAside]):
    completion_id = serializers.UUIDField()
    created = UtcField()
    released = UtcField(allow_null=True)
    is_overruled = serializers.BooleanField(
        help_text="Somebody released it, so that flags from before count no more; else flags were taken back."
    )
    released_by = serializers.SlugRelatedField[SetAside](
        slug_field="username", read_only=True, allow_null=True, help_text="Null for a program."
    )

    class Meta:
        model = SetAside
        fields = ["id", "completion_id", "created", "released", "is_overruled", "released_by"]


class ListSetAside(APIView):
    """From when to when answers were out of use; `GET feedback?kind=flag&completion_id=` says what for."""

    scopes = {"GET": "feedback:read"}

    @extend_schema(
        operation_id="list_set_aside",
        parameters=[
            OpenApiParameter("state", enum=list(STATES)),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=list_of(SetAsideSerializer, "SetAside"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, "state", "limit", "cursor")
        paging = Paging.read(query, name="set-aside", key=key)
        rows: QuerySet[SetAside] = SetAside.objects.filter(project=key.project_id).select_related(
            "released_by"
        )
        if state := query.get("state"):
            if state not in STATES:
                raise Invalid(f"state must be one of {', '.join(STATES)}.", param="state")
            rows = rows.filter(released__isnull=STATES[state])
        return Response(
            paging.answer(
                paging.rows(rows, "id"), "id", as_data=lambda items: SetAsideSerializer(items, many=True).data
            )
        )


class ReleaseAnswer(APIView):
    """Back into use. Flags that are there by now do not set it aside again; new ones may."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="release_answer",
        request=NothingBody,
        responses={200: SetAsideSerializer, 404: ErrorSerializer, 409: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request, completion_id: UUID) -> Response:
        read_query(request)
        key = key_of(request)
        parse_body(NothingBody, request.data)
        row = release_answer(project=key.project, completion_id=completion_id, actor=Actor(api_key=key))
        return Response(SetAsideSerializer(row).data)
