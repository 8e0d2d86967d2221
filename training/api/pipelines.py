"""Pipelines by REST: started, listed, looked at, called off."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.api.bodies import NothingBody
from projects.bodies import parse_body
from projects.errors import NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor
from training.api.answers import CompilationSerializer, PipelineSerializer
from training.api.bodies import PipelineBody
from training.api.datasets import queued
from training.models import Compilation, Pipeline
from training.services.compilations import begin
from training.services.pipelines import cancel_pipeline
from training.tasks import ring, tick_runs


class StartPipeline(APIView):
    """Queue the first run; each next one begins by itself when the one before is done.

    Where there are many judgements to compile first, a worker does it: 202 with the compilation.
    """

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="start_pipeline",
        request=PipelineBody,
        responses={201: PipelineSerializer, 202: CompilationSerializer, 422: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it compiles a dataset
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(PipelineBody, request.data)
        wanted = {
            "name": body.name,
            "configs": body.configs,
            "filters": body.filters.model_dump(mode="json", exclude_unset=True),
        }
        first = begin(project=key.project, kind="pipeline", wanted=wanted, actor=Actor(api_key=key))
        if isinstance(first, Compilation):
            return queued(first)
        assert first.pipeline is not None  # noqa: S101 - it is the first of one
        ring(tick_runs)
        return Response(PipelineSerializer(first.pipeline).data, status=201)


class ListPipelines(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_pipelines",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(PipelineSerializer, "Pipeline"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="pipelines", key=key)
        rows = paging.rows(_pipelines_of(key.project), "number")
        return Response(
            paging.answer(rows, "number", as_data=lambda items: PipelineSerializer(items, many=True).data)
        )


class ShowPipeline(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_pipeline", responses={200: PipelineSerializer, 404: ErrorSerializer})
    def get(self, request: Request, number: int) -> Response:
        read_query(request)
        return Response(PipelineSerializer(find_pipeline_row(key_of(request).project, number)).data)


class CancelPipeline(APIView):
    """Its run is called off, and none follows."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="cancel_pipeline",
        request=NothingBody,
        responses={200: PipelineSerializer, 409: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request, number: int) -> Response:
        key = key_of(request)
        read_query(request)
        parse_body(NothingBody, request.data)
        pipeline = cancel_pipeline(pipeline=find_pipeline_row(key.project, number), actor=Actor(api_key=key))
        ring(tick_runs)
        return Response(PipelineSerializer(pipeline).data)


def find_pipeline_row(project: Project, number: int) -> Pipeline:
    """Raises NotFound."""
    pipeline = _pipelines_of(project).filter(number=number).first()
    if pipeline is None:
        raise NotFound("There is no such pipeline in this project.")
    return pipeline


def _pipelines_of(project: Project) -> QuerySet[Pipeline]:
    rows = Pipeline.objects.filter(project=project).select_related("project")
    return rows.prefetch_related("runs__version__project")
