"""Erasing a person by REST: what it would do, the request, its report, and the training without them."""

from __future__ import annotations

from typing import Any, Literal

from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.api.bodies import NothingBody
from projects.bodies import StrictBody, parse_body
from projects.errors import NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, UtcField, key_of, list_of, read_query
from projects.services import Actor
from training.api.answers import CompilationSerializer, RunSerializer
from training.api.datasets import queued
from training.models import Compilation, Erasure
from training.services.compilations import begin
from training.services.erasure import Foretold, find_person, foretell_erasure, request_erasure
from training.tasks import ring, tick_erasures, tick_runs


class ErasureBody(StrictBody):
    """Whom: a member by name, or an end user by the `subject` that programs name them by."""

    user: str = Field(default="", max_length=150)
    subject: str = Field(default="", max_length=200)
    mode: Literal["remove", "anonymise"] = "remove"
    reason: str = Field(default="", max_length=300)  # no names: it stays
    dry_run: bool = False


class ErasureSerializer(serializers.ModelSerializer[Erasure]):
    """The report. It names nobody."""

    created = UtcField()
    finished = UtcField(allow_null=True)
    removed = serializers.IntegerField(help_text="Judgements that are gone.")

    class Meta:
        model = Erasure
        fields = [
            "number", "mode", "status", "reason", "pseudonym", "removed", "before", "after", "datasets",
            "versions", "remains", "created", "finished",
        ]  # fmt: skip


class ForetoldSerializer(serializers.Serializer[Any]):
    """The answer to a dry run."""

    counts = serializers.DictField(child=serializers.IntegerField())
    datasets = serializers.ListField(child=serializers.IntegerField())
    versions = serializers.ListField(child=serializers.CharField())
    anonymises = serializers.BooleanField()
    closes_account = serializers.BooleanField()


class RequestErasure(APIView):
    """Erase a person from the project. What was trained on them is marked."""

    scopes = {"POST": "manage"}
    long_methods = frozenset({"POST"})  # a dry run looks into each dataset

    @extend_schema(
        operation_id="request_erasure",
        request=ErasureBody,
        responses={202: ErasureSerializer, 200: ForetoldSerializer, 404: ErrorSerializer},
    )
    @idempotent()  # what is kept for a day names nobody: a digest of the body, and the report
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(ErasureBody, request.data)
        person = find_person(project=key.project, user=body.user, subject=body.subject)
        if body.dry_run:
            return Response(foretold_data(foretell_erasure(person, mode=body.mode)))
        erasure, _ = request_erasure(
            person=person, mode=body.mode, reason=body.reason, actor=Actor(api_key=key)
        )
        ring(tick_erasures)
        return Response(ErasureSerializer(erasure).data, status=202)


class ListErasures(APIView):
    scopes = {"GET": "manage"}

    @extend_schema(
        operation_id="list_erasures",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(ErasureSerializer, "Erasure"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="erasures", key=key)
        rows = paging.rows(Erasure.objects.filter(project=key.project_id), "number")
        return Response(
            paging.answer(rows, "number", as_data=lambda items: ErasureSerializer(items, many=True).data)
        )


class ShowErasure(APIView):
    scopes = {"GET": "manage"}

    @extend_schema(operation_id="show_erasure", responses={200: ErasureSerializer, 404: ErrorSerializer})
    def get(self, request: Request, number: int) -> Response:
        read_query(request)
        return Response(ErasureSerializer(find_erasure(key_of(request).project, number)).data)


class RetrainWithout(APIView):
    """Compile what the person was taken out of, and train on it as the newest marked version was."""

    scopes = {"POST": "manage"}
    long_methods = frozenset({"POST"})

    @extend_schema(
        operation_id="retrain_without",
        request=NothingBody,
        responses={
            201: RunSerializer,
            202: CompilationSerializer,
            404: ErrorSerializer,
            409: ErrorSerializer,
            422: ErrorSerializer,
        },
    )
    @idempotent(atomic=False)  # it compiles a dataset
    def post(self, request: Request, number: int) -> Response:
        key = key_of(request)
        read_query(request)
        parse_body(NothingBody, request.data)
        wanted = {"erasure": find_erasure(key.project, number).number}
        run = begin(project=key.project, kind="retrain", wanted=wanted, actor=Actor(api_key=key))
        if isinstance(run, Compilation):
            return queued(run)
        ring(tick_runs)
        return Response(RunSerializer(run).data, status=201)


def find_erasure(project: Project, number: int) -> Erasure:
    """Raises NotFound."""
    found = Erasure.objects.select_related("project").filter(project=project, number=number).first()
    if found is None:
        raise NotFound("There is no such erasure in this project.", param="erasure")
    return found


def foretold_data(foretold: Foretold) -> dict[str, Any]:
    return {
        "counts": foretold.counts,
        "datasets": [one.number for one in foretold.datasets],
        "versions": [f"v{one.number}" for one in foretold.versions],
        "anonymises": foretold.anonymises,
        "closes_account": foretold.closes_account,
    }
