"""Completions by REST: answers that were made elsewhere come in, and all of them can be read."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.api.answers import CompletionSerializer
from feedback.api.bodies import CompletionBody
from feedback.errors import IdReused
from inference.models import Completion, Prompt
from inference.services.completions import record_completion
from inference.services.prompts import record_prompt
from projects.bodies import parse_body
from projects.errors import Invalid, NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query, uuid_in


class CreateCompletion(APIView):
    """An answer made elsewhere. With an `id` of the client's, sending it again answers with the first."""

    scopes = {"POST": "feedback:write"}

    @extend_schema(
        operation_id="create_completion",
        request=CompletionBody,
        responses={201: CompletionSerializer, 200: CompletionSerializer, 422: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(CompletionBody, request.data)
        prompt = _prompt_of(key.project, body)
        said: dict[str, Any] = {
            "prompt": prompt,
            "text": body.text,
            "version_label": body.version_label,
            "finish_reason": body.finish_reason,
            "subject": body.subject,
            "tokens_in": body.tokens_in,
            "tokens_out": body.tokens_out,
        }
        try:
            with transaction.atomic():
                completion = record_completion(project=key.project, api_key=key, id=body.id, **said)
        except IntegrityError:
            if body.id is None:
                raise
            first = Completion.objects.filter(pk=body.id, project=key.project).first()
            if first is None or any(getattr(first, name) != value for name, value in said.items()):
                raise IdReused(param="id") from None
            return Response(CompletionSerializer(first).data)
        return Response(CompletionSerializer(completion).data, status=201)


class ListCompletions(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_completions",
        parameters=[
            OpenApiParameter("prompt_id", description="Answers to this prompt."),
            OpenApiParameter("version", description="Answers by this version: slug@vN, or a label."),
            OpenApiParameter("state", enum=Completion.State.values),
            OpenApiParameter("subject", description="Answers to this end user of a program."),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=list_of(CompletionSerializer, "Completion"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, "prompt_id", "version", "state", "subject", "limit", "cursor")
        paging = Paging.read(query, name="completions", key=key)
        completions = Completion.objects.filter(project=key.project_id)
        if "prompt_id" in query:
            completions = completions.filter(prompt=uuid_in(query, "prompt_id"))
        if "version" in query:
            completions = completions.filter(version_label=query["version"])
        if "state" in query:
            if query["state"] not in Completion.State.values:
                raise Invalid(f"state must be one of {', '.join(Completion.State.values)}.", param="state")
            completions = completions.filter(state=query["state"])
        if "subject" in query:
            completions = completions.filter(subject=query["subject"])
        rows = paging.rows(completions, "id")
        return Response(
            paging.answer(rows, "id", as_data=lambda items: CompletionSerializer(items, many=True).data)
        )


class ShowCompletion(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_completion", responses={200: CompletionSerializer, 404: ErrorSerializer}
    )
    def get(self, request: Request, completion_id: UUID) -> Response:
        read_query(request)
        found = Completion.objects.filter(project=key_of(request).project_id, pk=completion_id).first()
        if found is None:
            raise NotFound("There is no such completion in this project.")
        return Response(CompletionSerializer(found).data)


def _prompt_of(project: Project, body: CompletionBody) -> Prompt:
    if (body.prompt_id is None) == (body.messages is None):
        raise Invalid("Send either prompt_id or messages.", param="prompt_id")
    if body.prompt_id is None:
        assert body.messages is not None  # noqa: S101 - by the check above
        messages = [message.model_dump() for message in body.messages]
        return record_prompt(project=project, messages=messages)[0]
    prompt = Prompt.objects.filter(project=project, pk=body.prompt_id).first()
    if prompt is None:
        raise NotFound("There is no such prompt in this project.", param="prompt_id")
    return prompt
