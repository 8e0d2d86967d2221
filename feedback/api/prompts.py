"""Prompts by REST: import as NDJSON, list, and look at one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.api.answers import PromptSerializer, PromptsImportedSerializer
from feedback.api.bodies import PromptLine
from feedback.imports import PromptImport, from_lines
from inference.models import Prompt
from projects.bodies import Lines, NDJSONParser, read_uuid
from projects.errors import Invalid, NotFound
from projects.idempotency import idempotent
from projects.models import ApiKey
from projects.rest import MAX_LIMIT, ErrorSerializer, Paging, key_of, list_of, read_query


class ImportPrompts(APIView):
    """One prompt a line. The same messages are one prompt, so that sending a file again changes nothing."""

    scopes = {"POST": "feedback:write"}
    long_methods = frozenset({"POST"})
    parser_classes = [NDJSONParser]

    @extend_schema(
        operation_id="import_prompts",
        request={"application/x-ndjson": PromptLine},
        responses={200: PromptsImportedSerializer, 400: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it commits as it reads
    def post(self, request: Request) -> Response:
        read_query(request)
        key = key_of(request)
        done = PromptImport(key.project, may_audit=ApiKey.Scope.MANAGE in key.scopes)
        # Without a body there is nothing that was parsed, and so no Lines.
        lines = request.data if isinstance(request.data, Lines) else ()
        for _ in done.run(from_lines(lines)):
            pass
        if not done.total:
            raise Invalid("There is no line in the body. Send one JSON object a line.", code="empty_batch")
        return Response(PromptsImportedSerializer(done).data)


class ListPrompts(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_prompts",
        parameters=[
            OpenApiParameter("split", enum=Prompt.Split.values),
            OpenApiParameter("ids", description=f"Up to {MAX_LIMIT} ids with commas between them."),
            OpenApiParameter("external_id"),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=list_of(PromptSerializer, "Prompt"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, "split", "ids", "external_id", "limit", "cursor")
        paging = Paging.read(query, name="prompts", key=key)
        prompts = Prompt.objects.filter(project=key.project_id, **_filters(query))
        rows = paging.rows(prompts, "id")
        return Response(
            paging.answer(rows, "id", as_data=lambda items: PromptSerializer(items, many=True).data)
        )


class ShowPrompt(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_prompt", responses={200: PromptSerializer, 404: ErrorSerializer})
    def get(self, request: Request, prompt_id: UUID) -> Response:
        read_query(request)
        prompt = Prompt.objects.filter(project=key_of(request).project_id, pk=prompt_id).first()
        if prompt is None:
            raise NotFound("There is no such prompt in this project.")
        return Response(PromptSerializer(prompt).data)


def _filters(query: dict[str, str]) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    if "split" in query:
        if query["split"] not in Prompt.Split.values:
            raise Invalid(f"split must be one of {', '.join(Prompt.Split.values)}.", param="split")
        filters["split"] = query["split"]
    if "ids" in query:
        filters["pk__in"] = list(_ids(query["ids"]))
    if "external_id" in query:
        filters["external_id"] = query["external_id"]
    return filters


def _ids(text: str) -> Iterator[UUID]:
    parts = text.split(",")
    if len(parts) > MAX_LIMIT:
        raise Invalid(f"Ask for at most {MAX_LIMIT} ids at a time.", param="ids")
    for part in parts:
        try:
            yield read_uuid(part)
        except ValueError as error:
            raise Invalid(f"ids: {part[:80]!r} {error}.", param="ids") from error
