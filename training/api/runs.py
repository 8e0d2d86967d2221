"""Runs by REST: queue, list, look, call off."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.services.references import find_version
from projects.api.bodies import NothingBody
from projects.bodies import parse_body
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor
from training.api.answers import CompilationSerializer, RunSerializer, RunShownSerializer
from training.api.bodies import RunBody
from training.api.datasets import queued
from training.models import Compilation
from training.services.compilations import begin
from training.services.runs import cancel_run, find_run, resume_run, runs_of
from training.tasks import ring, tick_runs


class CreateRun(APIView):
    """Queue a run. What would make it fail is said here, before anything is queued.

    Where there are many judgements to compile first, a worker does it: 202 with the compilation.
    """

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="create_run",
        request=RunBody,
        responses={201: RunSerializer, 202: CompilationSerializer, 422: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it may compile a dataset
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(RunBody, request.data)
        wanted = {
            **body.model_dump(),
            "reward": _number(key.project, body.reward, param="reward"),
            "judged": _number(key.project, body.judged, param="judged"),
        }
        run = begin(project=key.project, kind="run", wanted=wanted, actor=Actor(api_key=key))
        if isinstance(run, Compilation):
            return queued(run)
        ring(tick_runs)
        return Response(RunSerializer(run).data, status=201)


def _number(project: Project, name: str | int | None, *, param: str) -> int | None:
    return None if name is None else find_version(project, name, param=param).number


class ListRuns(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_runs",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(RunSerializer, "Run"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="runs", key=key)
        rows = paging.rows(runs_of(key.project), "number")
        return Response(
            paging.answer(rows, "number", as_data=lambda items: RunSerializer(items, many=True).data)
        )


class ShowRun(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_run", responses={200: RunShownSerializer, 404: ErrorSerializer})
    def get(self, request: Request, number: int) -> Response:
        read_query(request)
        return Response(RunShownSerializer(find_run(key_of(request).project, number)).data)


class CancelRun(APIView):
    """Call a run off: at once while it waits, with its trainer's next tick while it works."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="cancel_run", request=NothingBody, responses={200: RunSerializer, 409: ErrorSerializer}
    )
    @idempotent()
    def post(self, request: Request, number: int) -> Response:
        key = key_of(request)
        read_query(request)
        parse_body(NothingBody, request.data)
        run = cancel_run(run=find_run(key.project, number), actor=Actor(api_key=key))
        ring(tick_runs)
        return Response(RunSerializer(run).data)


class ResumeRun(APIView):
    """Queue a cancelled or failed run once more: it goes on from its last checkpoint."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="resume_run", request=NothingBody, responses={200: RunSerializer, 409: ErrorSerializer}
    )
    @idempotent()
    def post(self, request: Request, number: int) -> Response:
        key = key_of(request)
        read_query(request)
        parse_body(NothingBody, request.data)
        run = resume_run(run=find_run(key.project, number), actor=Actor(api_key=key))
        ring(tick_runs)
        return Response(RunSerializer(run).data)
