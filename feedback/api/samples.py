"""Samples by REST: have chosen versions answer imported prompts, and raters compare the answers."""

from __future__ import annotations

from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.api.answers import SampleRequestSerializer
from feedback.api.bodies import SampleBody
from feedback.models import SampleRequest
from feedback.services.samples import cancel_samples, request_samples
from inference.services.references import find_version
from projects.api.bodies import NothingBody
from projects.bodies import parse_body
from projects.errors import NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor


class RequestSamples(APIView):
    """Have each version answer the project's imported prompts for training; they become comparisons.

    It goes on in the background, behind people's own requests; `GET samples/{sample_id}` says how far it is.
    """

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="request_samples",
        request=SampleBody,
        responses={201: SampleRequestSerializer, 422: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        read_query(request)
        key = key_of(request)
        body = parse_body(SampleBody, request.data)
        made = request_samples(
            project=key.project,
            versions=[find_version(key.project, name, param="versions") for name in body.versions],
            samples=body.samples,
            tags=body.tags,
            limit=body.limit,
            overlap=body.overlap,
            actor=Actor(api_key=key),
        )
        return Response(SampleRequestSerializer(made).data, status=201)


class ListSamples(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_samples",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(SampleRequestSerializer, "SampleRequest"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="samples", key=key)
        rows = paging.rows(
            SampleRequest.objects.filter(project=key.project_id).select_related("project"), "id"
        )
        return Response(
            paging.answer(rows, "id", as_data=lambda items: SampleRequestSerializer(items, many=True).data)
        )


class ShowSamples(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_samples", responses={200: SampleRequestSerializer, 404: ErrorSerializer}
    )
    def get(self, request: Request, sample_id: UUID) -> Response:
        read_query(request)
        return Response(SampleRequestSerializer(_find(key_of(request).project, sample_id)).data)


class CancelSamples(APIView):
    """No more answers; comparisons that were made stay."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="cancel_samples",
        request=NothingBody,
        responses={200: SampleRequestSerializer, 409: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request, sample_id: UUID) -> Response:
        read_query(request)
        key = key_of(request)
        parse_body(NothingBody, request.data)
        made = cancel_samples(request=_find(key.project, sample_id), actor=Actor(api_key=key))
        return Response(SampleRequestSerializer(made).data)


def _find(project: Project, sample_id: UUID) -> SampleRequest:
    """Raises NotFound."""
    found = SampleRequest.objects.filter(project=project, pk=sample_id).select_related("project").first()
    if found is None:
        raise NotFound("There is no such request for samples in this project.")
    return found
