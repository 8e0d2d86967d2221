"""Versions with their lineage, and the history of what served; promotion and rollback."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.models import Deployment, Version
from inference.services.references import find_version
from projects.bodies import parse_body
from projects.idempotency import idempotent
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor
from training.api.answers import DeploymentSerializer, VersionSerializer
from training.api.bodies import DeploymentBody
from training.services.promotion import promote_version, rollback_version


class ListVersions(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_versions",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(VersionSerializer, "Version"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="versions", key=key)
        versions = (
            Version.objects.filter(project=key.project_id)
            .select_related("project", "run__dataset")
            .prefetch_related("evaluations__champion__project")
        )
        rows = paging.rows(versions, "number")
        return Response(
            paging.answer(rows, "number", as_data=lambda items: VersionSerializer(items, many=True).data)
        )


class ListDeployments(APIView):
    """What served, newest first: the first item is what serves now."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_deployments",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(DeploymentSerializer, "Deployment"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="deployments", key=key)
        deployments = Deployment.objects.filter(project=key.project_id).select_related(
            "champion__project", "canary__project", "previous__project", "user", "api_key"
        )
        rows = paging.rows(deployments, "number")
        return Response(paging.answer(rows, "number", as_data=_deployments_data))


class Deploy(APIView):
    """Promote what the gate found better, or roll back. It serves when the answer comes."""

    scopes = {"POST": "manage"}
    long_methods = frozenset({"POST"})

    @extend_schema(
        operation_id="deploy",
        request=DeploymentBody,
        responses={201: DeploymentSerializer, 409: ErrorSerializer, 503: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it has engines load a version
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(DeploymentBody, request.data)
        actor = Actor(api_key=key)
        if body.version is None:
            deployment = rollback_version(project=key.project, actor=actor, reason=body.reason)
        else:
            deployment = promote_version(
                project=key.project,
                version=find_version(key.project, body.version),
                actor=actor,
                reason=body.reason,
                share=body.share,
                override=body.override,
                canary=body.canary,
            )
        return Response(DeploymentSerializer(deployment).data, status=201)


def _deployments_data(rows: list[Deployment]) -> Any:
    return DeploymentSerializer(rows, many=True).data
