"""Evaluations by REST: candidate against champion, made, looked at, decided."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inference.services.references import find_version
from projects.api.bodies import NothingBody
from projects.bodies import parse_body
from projects.errors import Invalid, NotFound
from projects.idempotency import idempotent
from projects.models import Project
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_limit, read_query
from projects.services import Actor
from training.api.answers import EvaluationInListSerializer, EvaluationSerializer, ExamplesSerializer
from training.api.bodies import EvaluationBody
from training.models import Evaluation
from training.services.battles import FILTERS, page_of
from training.services.evaluations import create_evaluation, decide
from training.tasks import ring, tick_work


class CreateEvaluation(APIView):
    """Freeze the gate prompts and load the candidate.

    Battles are answers made with `slug@vN` to these prompts, and preferences between them.
    """

    scopes = {"POST": "manage"}
    long_methods = frozenset({"POST"})

    @extend_schema(
        operation_id="create_evaluation",
        request=EvaluationBody,
        responses={201: EvaluationSerializer, 422: ErrorSerializer, 503: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it has engines load versions
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(EvaluationBody, request.data)
        project = key.project
        evaluation = create_evaluation(
            project=project,
            candidate=find_version(project, body.candidate, param="candidate"),
            champion=(
                find_version(project, body.champion, param="champion") if body.champion is not None else None
            ),
            sample=body.sample,
            actor=Actor(api_key=key),
        )
        if body.sample:
            ring(tick_work)
        return Response(EvaluationSerializer(evaluation).data, status=201)


class ListEvaluations(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_evaluations",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(EvaluationInListSerializer, "Evaluation"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="evaluations", key=key)
        rows = paging.rows(_evaluations_of(key.project), "number")
        return Response(
            paging.answer(
                rows, "number", as_data=lambda items: EvaluationInListSerializer(items, many=True).data
            )
        )


class ShowEvaluation(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_evaluation", responses={200: EvaluationSerializer, 404: ErrorSerializer}
    )
    def get(self, request: Request, number: int) -> Response:
        read_query(request)
        return Response(EvaluationSerializer(find_evaluation(key_of(request).project, number)).data)


class DecideEvaluation(APIView):
    """Count the votes so far and write the verdict. May be repeated when more came."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="decide_evaluation",
        request=NothingBody,
        responses={200: EvaluationSerializer, 409: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it has engines load versions
    def post(self, request: Request, number: int) -> Response:
        key = key_of(request)
        read_query(request)
        parse_body(NothingBody, request.data)
        evaluation = decide(evaluation=find_evaluation(key.project, number), actor=Actor(api_key=key))
        return Response(EvaluationSerializer(evaluation).data)


class ListExamples(APIView):
    """Each gate prompt with both answers, their scores and who wins; judged ones first."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_examples",
        parameters=[
            OpenApiParameter("show", enum=sorted(FILTERS)),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=ExamplesSerializer,
    )
    def get(self, request: Request, number: int) -> Response:
        key = key_of(request)
        query = read_query(request, "show", "limit", "cursor")
        show, limit = query.get("show", ""), read_limit(query)
        if show and show not in FILTERS:
            raise Invalid(f"show must be one of: {', '.join(sorted(FILTERS))}.", param="show")
        evaluation = find_evaluation(key.project, number)
        found = page_of(evaluation, show=show, after=query.get("cursor", ""), limit=limit)
        return Response(ExamplesSerializer({"items": found.battles, "next": found.next}).data)


def find_evaluation(project: Project, number: int) -> Evaluation:
    """Raises NotFound."""
    evaluation = _evaluations_of(project).filter(number=number).first()
    if evaluation is None:
        raise NotFound("There is no such evaluation in this project.")
    return evaluation


def _evaluations_of(project: Project) -> QuerySet[Evaluation]:
    return Evaluation.objects.filter(project=project).select_related(
        "project", "candidate__project", "champion__project"
    )
