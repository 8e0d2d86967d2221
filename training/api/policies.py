"""The policy by REST: looked at, tried out, changed."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.bodies import parse_body
from projects.idempotency import idempotent
from projects.rest import ErrorSerializer, key_of, read_query
from projects.services import Actor
from training.api.answers import PolicySerializer
from training.api.bodies import PolicyBody
from training.models import Policy
from training.services.plans import dry_run_in_words
from training.services.policy_changes import policy_of, set_policy, with_changes


class ShowPolicy(APIView):
    """When runs start by themselves, what they run, of which budget, and who approves."""

    scopes = {"GET": "data:read"}

    @extend_schema(operation_id="show_policy", responses=PolicySerializer)
    def get(self, request: Request) -> Response:
        read_query(request)
        return Response(_answer(policy_of(key_of(request).project)))


class ChangePolicy(APIView):
    """Change what is named; with `dry_run` only say what would start then."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="change_policy",
        request=PolicyBody,
        responses={200: PolicySerializer, 409: ErrorSerializer, 422: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(PolicyBody, request.data)
        if body.dry_run:
            return Response(_answer(with_changes(policy_of(key.project), body.changes())))
        policy = set_policy(
            project=key.project, changes=body.changes(), actor=Actor(api_key=key), version=body.version
        )
        return Response(_answer(policy))


def _answer(policy: Policy) -> dict[str, Any]:
    return {**PolicySerializer(policy).data, "would": dry_run_in_words(policy, timezone.now())}
