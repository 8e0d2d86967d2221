"""Versions on their way from a canary to all requests, by REST: looked at and steered."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.bodies import parse_body
from projects.errors import NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor
from training.api.answers import RolloutSerializer
from training.api.bodies import SteerBody
from training.models import Rollout
from training.services.rollouts import finish_rollout, pause_rollout, resume_rollout, roll_back_rollout

STEERED = {200: RolloutSerializer, 404: ErrorSerializer, 409: ErrorSerializer}


class ListRollouts(APIView):
    """Newest first. `POST deployments` with `canary: true` begins one."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_rollouts",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(RolloutSerializer, "Rollout"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="rollouts", key=key)
        rows = paging.rows(_rollouts_of(key.project), "number")
        return Response(
            paging.answer(rows, "number", as_data=lambda items: RolloutSerializer(items, many=True).data)
        )


class ShowRollout(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_rollout", responses={200: RolloutSerializer, 404: ErrorSerializer})
    def get(self, request: Request, number: int) -> Response:
        read_query(request)
        return Response(RolloutSerializer(find_rollout(key_of(request).project, number)).data)


class PauseRollout(APIView):
    """Its share stays as it is; its guards go on."""

    scopes = {"POST": "manage"}

    @extend_schema(operation_id="pause_rollout", request=SteerBody, responses=STEERED)
    @idempotent()
    def post(self, request: Request, number: int) -> Response:
        rollout, actor, reason = _steered(request, number)
        pause_rollout(rollout=rollout, actor=actor, reason=reason)
        return Response(RolloutSerializer(rollout).data)


class ResumeRollout(APIView):
    scopes = {"POST": "manage"}

    @extend_schema(operation_id="resume_rollout", request=SteerBody, responses=STEERED)
    @idempotent()
    def post(self, request: Request, number: int) -> Response:
        rollout, actor, reason = _steered(request, number)
        resume_rollout(rollout=rollout, actor=actor, reason=reason)
        return Response(RolloutSerializer(rollout).data)


class FinishRollout(APIView):
    """All requests now; where it serves all already, the end of its watch."""

    scopes = {"POST": "manage"}

    @extend_schema(operation_id="finish_rollout", request=SteerBody, responses=STEERED)
    @idempotent(atomic=False)  # it has engines load a version
    def post(self, request: Request, number: int) -> Response:
        rollout, actor, reason = _steered(request, number)
        finish_rollout(rollout=rollout, actor=actor, reason=reason)
        return Response(RolloutSerializer(rollout).data)


class RollBackRollout(APIView):
    """Back to what served before its way began."""

    scopes = {"POST": "manage"}

    @extend_schema(operation_id="roll_back_rollout", request=SteerBody, responses=STEERED)
    @idempotent(atomic=False)  # it has engines load a version
    def post(self, request: Request, number: int) -> Response:
        rollout, actor, reason = _steered(request, number)
        roll_back_rollout(rollout=rollout, actor=actor, reason=reason)
        return Response(RolloutSerializer(rollout).data)


def find_rollout(project: Project, number: int) -> Rollout:
    """Raises NotFound."""
    rollout = _rollouts_of(project).filter(number=number).first()
    if rollout is None:
        raise NotFound("There is no such rollout in this project.")
    return rollout


def _rollouts_of(project: Project) -> QuerySet[Rollout]:
    return Rollout.objects.filter(project=project).select_related(
        "project", "candidate__project", "champion__project"
    )


def _steered(request: Request, number: int) -> tuple[Rollout, Actor, str]:
    key = key_of(request)
    read_query(request)
    body = parse_body(SteerBody, request.data)
    return find_rollout(key.project, number), Actor(api_key=key), body.reason
