"""Feedback by REST: one judgement, a batch of them, the log, and taking one back."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.api.answers import JUDGEMENT, JUDGEMENTS, BatchSerializer, judgement_data, judgements_data
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
from feedback.export import as_jsonl, as_parquet, log_rows
from feedback.models import Feedback
from feedback.services.batch import Batch
from feedback.services.judge import Judge
from feedback.services.record import (
    KINDS,
    Common,
    find_feedback,
    record_correction,
    record_flag,
    record_preference,
    record_rating,
    retract_feedback,
)
from projects.bodies import parse_body, read_time
from projects.downloads import CONTENT_TYPES, streamed
from projects.errors import Invalid, Problem, error_body
from projects.idempotency import idempotent
from projects.models import ApiKey, User
from projects.rest import ErrorSerializer, Paging, key_of, read_query, uuid_in

NEWEST_FIRST = ("created", "id")
Result = tuple[Feedback, bool] | Problem  # the judgement and whether it is a replay, or the refusal
_FILTERS = ("kind", "completion_id", "rater", "subject", "source", "since", "until")


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
        bodies = [_parsed(item) for item in body.items]
        with transaction.atomic():  # one commit for all
            results = record_judgements(key, bodies)
        return Response({"results": [_shown(result, request_id) for result in results]})


class ListFeedback(APIView):
    """The log of all judgements, also those that no longer stand."""

    scopes = {"GET": "feedback:read"}

    @extend_schema(
        operation_id="list_feedback",
        parameters=[
            OpenApiParameter("kind", enum=list(KINDS)),
            OpenApiParameter("completion_id", description="About this answer, compared ones included."),
            OpenApiParameter("rater", description="By this member: a user name."),
            OpenApiParameter("subject", description="By this end user of a program."),
            OpenApiParameter("source", enum=Feedback.Source.values),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="Made at this time or later."),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Made before this time."),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=JUDGEMENTS,
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, *_FILTERS, "limit", "cursor")
        paging = Paging.read(query, name="feedback", key=key)
        rows = [row for kind in _kinds(query) for row in _newest(kind, key, paging, query)]
        # Each kind gave enough for a whole page, so the newest of all are among them.
        rows.sort(key=lambda row: (row.created, row.id), reverse=True)
        return Response(paging.answer(rows, *NEWEST_FIRST, as_data=judgements_data))


class ExportFeedback(APIView):
    """The whole log as one stream, oldest first, in constant memory: each row as the list shows it."""

    scopes = {"GET": "feedback:read"}

    @extend_schema(
        operation_id="export_feedback",
        parameters=[
            OpenApiParameter("as", enum=list(CONTENT_TYPES), default="jsonl"),
            OpenApiParameter("kind", enum=list(KINDS)),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="Made at this time or later."),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Made before this time."),
        ],
        responses={
            (200, "application/x-ndjson"): OpenApiTypes.STR,
            (200, "application/vnd.apache.parquet"): OpenApiTypes.BINARY,
            422: ErrorSerializer,
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        project = key_of(request).project
        query = read_query(request, "as", "kind", "since", "until")
        form = query.get("as", "jsonl")
        if form not in CONTENT_TYPES:
            raise Invalid(f"as must be one of {', '.join(CONTENT_TYPES)}.", param="as")
        times = {name: _time(query[name], name) for name in ("since", "until") if name in query}
        times.setdefault("until", timezone.now())  # it ends, however fast new ones come
        rows = log_rows(project, kinds=_kinds(query), **times)
        return streamed(
            request,
            as_jsonl(rows) if form == "jsonl" else as_parquet(rows),
            content_type=CONTENT_TYPES[form],
            name=f"{project.slug}-feedback.{form}",
        )


class ShowFeedback(APIView):
    scopes = {"GET": "feedback:read"}

    @extend_schema(operation_id="show_feedback", responses={200: JUDGEMENT, 404: ErrorSerializer})
    def get(self, request: Request, feedback_id: UUID) -> Response:
        read_query(request)
        return Response(
            judgement_data(find_feedback(project=key_of(request).project, feedback_id=feedback_id))
        )


class RetractFeedback(APIView):
    """Take back a judgement that this key recorded; with the scope `manage`, any. Twice is no error."""

    scopes = {"DELETE": "feedback:write"}

    @extend_schema(operation_id="retract_feedback", responses={200: JUDGEMENT, 404: ErrorSerializer})
    def delete(self, request: Request, feedback_id: UUID) -> Response:
        key = key_of(request)
        read_query(request)
        row, _ = retract_feedback(project=key.project, judge=Judge(api_key=key), feedback_id=feedback_id)
        return Response(judgement_data(row))


def record_judgement(key: ApiKey, body: JudgementBody, batch: Batch | None = None) -> tuple[Feedback, bool]:
    """Call the service of the body's kind."""
    project, judge = key.project, Judge(api_key=key, subject=body.subject)
    common: Common = {
        "source": Feedback.Source.API,
        "id": body.id,
        "seconds_spent": body.seconds_spent,
        "supersedes": body.supersedes,
        "batch": batch,
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


def record_judgements(key: ApiKey, bodies: list[JudgementBody | Problem]) -> list[Result]:
    """What became of each, in their order. Call it in a transaction."""
    good = [body for body in bodies if not isinstance(body, Problem)]
    batch = Batch(
        project=key.project,
        completions={one for body in good for one in _about(body)},
        ids=[body.id for body in good if body.id is not None],
    )
    results: list[Result] = []
    for place, body in enumerate(bodies):
        batch.place = place
        try:
            results.append(body if isinstance(body, Problem) else record_judgement(key, body, batch))
        except Problem as problem:
            results.append(problem)
    batch.finish()
    return [batch.changed.get(place, result) for place, result in enumerate(results)]


def _about(body: JudgementBody) -> list[UUID]:
    return body.candidates if isinstance(body, PreferenceBody) else [body.completion_id]


def _parsed(item: Any) -> JudgementBody | Problem:
    try:
        return parse_judgement(item)
    except Problem as problem:
        return problem


def _shown(result: Result, request_id: str) -> dict[str, Any]:
    if isinstance(result, Problem):
        return {"status": result.status, **error_body(result, request_id)}
    row, is_replay = result
    return {"status": 200 if is_replay else 201, "id": str(row.pk)}


def _kinds(query: dict[str, str]) -> list[str]:
    if "kind" in query and query["kind"] not in KINDS:
        raise Invalid(f"kind must be one of {', '.join(KINDS)}.", param="kind")
    return [query["kind"]] if "kind" in query else list(KINDS)


def _newest(kind: str, key: ApiKey, paging: Paging, query: dict[str, str]) -> list[Feedback]:
    rows = KINDS[kind].objects.filter(_wanted(kind, query), project=key.project_id).select_related("rater")
    if kind == "preference":
        rows = rows.prefetch_related("candidates")
    return paging.rows(rows, *NEWEST_FIRST)


def _wanted(kind: str, query: dict[str, str]) -> Q:
    wanted = Q()
    if "completion_id" in query:
        field = "candidates__completion" if kind == "preference" else "completion"
        wanted &= Q(**{field: uuid_in(query, "completion_id")})
    if "rater" in query:
        # By its id, so that the database sees at once when there is nobody.
        rater = User.objects.filter(username=query["rater"]).values_list("pk", flat=True).first()
        wanted &= Q(rater=rater) if rater is not None else Q(pk=None)
    if "subject" in query:
        wanted &= Q(subject=query["subject"])
    if "source" in query:
        if query["source"] not in Feedback.Source.values:
            raise Invalid(f"source must be one of {', '.join(Feedback.Source.values)}.", param="source")
        wanted &= Q(source=query["source"])
    if "since" in query:
        wanted &= Q(created__gte=_time(query["since"], "since"))
    if "until" in query:
        wanted &= Q(created__lt=_time(query["until"], "until"))
    return wanted


def _time(text: str, param: str) -> datetime:
    try:
        return read_time(text.replace(" ", "+"))  # a plus that nobody escaped is a space in an address
    except ValueError as error:
        raise Invalid(f"{param} {error}.", param=param) from error
