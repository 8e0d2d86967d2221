"""Feedback by REST: one judgement, a batch of them, the log, and taking one back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.api.answers import JUDGEMENT, BatchSerializer, judgement_data, judgements_data
from feedback.api.bodies import (
    BatchBody,
    CorrectionBody,
    FeedbackBody,
    FlagBody,
    JudgementBody,
    PreferenceBody,
    RatingBody,
    parse_judgement,
)
from feedback.models import Feedback
from feedback.services.judge import Judge
from feedback.services.record import (
    KINDS,
    Common,
    record_correction,
    record_flag,
    record_preference,
    record_rating,
    retract_feedback,
)
from projects.bodies import parse_body
from projects.errors import Invalid, Problem, error_body
from projects.idempotency import idempotent
from projects.models import ApiKey
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query

NEWEST_FIRST = ("created", "id")


class CreateFeedback(APIView):
    """One judgement. Again by the same judge is 409; with `supersedes` the first one is replaced."""

    scopes = {"POST": "feedback:write"}

    @extend_schema(
        operation_id="create_feedback",
        request=FeedbackBody,
        responses={
            201: JUDGEMENT,
            200: JUDGEMENT,
            404: ErrorSerializer,
            409: ErrorSerializer,
            422: ErrorSerializer,
        },
    )
    @idempotent()
    def post(self, request: Request) -> Response:
        read_query(request)
        row, is_replay = record_judgement(key_of(request), parse_judgement(request.data))
        return Response(judgement_data(row), status=200 if is_replay else 201)


class CreateFeedbackBatch(APIView):
    """Up to 500 judgements. Each stands or falls by itself; what is answered 201 is committed."""

    scopes = {"POST": "feedback:write"}

    @extend_schema(operation_id="create_feedback_batch", request=BatchBody, responses=BatchSerializer)
    @idempotent()
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(BatchBody, request.data)
        request_id = getattr(request, "request_id", "")
        with transaction.atomic():  # one commit for all; each item has its savepoint in the service
            results = [_result(key, item, request_id) for item in body.items]
        return Response({"results": results})


class ListFeedback(APIView):
    """The log of all judgements, also those that no longer stand."""

    scopes = {"GET": "feedback:read"}

    @extend_schema(
        operation_id="list_feedback",
        parameters=[
            OpenApiParameter("kind", enum=list(KINDS)),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=list_of(JUDGEMENT, "Judgement"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, "kind", "limit", "cursor")
        paging = Paging.read(query, name="feedback", key=key)
        kinds = [query["kind"]] if "kind" in query else list(KINDS)
        if kinds[0] not in KINDS:
            raise Invalid(f"kind must be one of {', '.join(KINDS)}.", param="kind")
        rows = [row for kind in kinds for row in _newest(kind, key, paging)]
        # Each kind gave enough for a whole page, so the newest of all are among them.
        rows.sort(key=lambda row: (row.created, row.id), reverse=True)
        return Response(paging.answer(rows, *NEWEST_FIRST, as_data=judgements_data))


class RetractFeedback(APIView):
    """Take back a judgement that this key recorded; with the scope `manage`, any. Twice is no error."""

    scopes = {"DELETE": "feedback:write"}

    @extend_schema(operation_id="retract_feedback", responses={200: JUDGEMENT, 404: ErrorSerializer})
    def delete(self, request: Request, feedback_id: UUID) -> Response:
        key = key_of(request)
        read_query(request)
        row, _ = retract_feedback(project=key.project, judge=Judge(api_key=key), feedback_id=feedback_id)
        return Response(judgement_data(row))


def record_judgement(key: ApiKey, body: JudgementBody) -> tuple[Feedback, bool]:
    """Call the service of the body's kind."""
    project, judge = key.project, Judge(api_key=key, subject=body.subject)
    common: Common = {
        "source": Feedback.Source.API,
        "id": body.id,
        "seconds_spent": body.seconds_spent,
        "supersedes": body.supersedes,
    }
    said = body.model_dump(exclude={"id", "kind", "subject", "seconds_spent", "supersedes"})
    match body:
        case RatingBody():
            return record_rating(project=project, judge=judge, **said, **common)
        case PreferenceBody():
            return record_preference(project=project, judge=judge, **said, **common)
        case CorrectionBody():
            return record_correction(project=project, judge=judge, **said, **common)
        case FlagBody():
            return record_flag(project=project, judge=judge, **said, **common)


def _result(key: ApiKey, item: Any, request_id: str) -> dict[str, Any]:
    try:
        row, is_replay = record_judgement(key, parse_judgement(item))
    except Problem as problem:
        return {"status": problem.status, **error_body(problem, request_id)}
    return {"status": 200 if is_replay else 201, "id": str(row.pk)}


def _newest(kind: str, key: ApiKey, paging: Paging) -> list[Feedback]:
    rows = KINDS[kind].objects.filter(project=key.project_id).select_related("rater")
    if kind == "preference":
        rows = rows.prefetch_related("candidates")
    return paging.rows(rows, *NEWEST_FIRST)
