"""Plain text by REST: imported as NDJSON, for datasets of the format text."""

from __future__ import annotations

from itertools import islice
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.bodies import NDJSONParser, parse_body, parse_json
from projects.errors import Invalid, Problem
from projects.idempotency import idempotent
from projects.rest import ErrorSerializer, key_of, read_query
from training.api.answers import DocumentsImportedSerializer
from training.api.bodies import DocumentLine
from training.services.documents import Text, record_documents

LINES_A_TRANSACTION = 100
ERRORS_SHOWN = 100


class ImportDocuments(APIView):
    """One text a line. The same text is one document, so that sending a file again changes nothing."""

    scopes = {"POST": "feedback:write"}
    long_methods = frozenset({"POST"})
    parser_classes = [NDJSONParser]

    @extend_schema(
        operation_id="import_documents",
        request={"application/x-ndjson": DocumentLine},
        responses={200: DocumentsImportedSerializer, 422: ErrorSerializer},
    )
    @idempotent(atomic=False)  # it commits as it reads
    def post(self, request: Request) -> Response:
        read_query(request)
        project = key_of(request).project
        lines = ((place, line) for place, line in enumerate(request.data or (), start=1) if line != b"")
        done: dict[str, Any] = {"created": 0, "existing": 0, "failed": 0, "errors": []}
        while chunk := list(islice(lines, LINES_A_TRANSACTION)):
            texts = [text for text in (_read(line, place, done) for place, line in chunk) if text is not None]
            created = record_documents(project=project, texts=texts)
            done["created"] += created
            done["existing"] += len(texts) - created
        if not (done["created"] or done["existing"] or done["failed"]):
            raise Invalid("There is no line in the body. Send one JSON object a line.", code="empty_batch")
        return Response(DocumentsImportedSerializer(done).data)


def _read(line: bytes | None, place: int, done: dict[str, Any]) -> Text | None:
    """The text of a line; None for a wrong one, which is counted, and named among the first."""
    try:
        if line is None:
            raise Invalid("The line is too long.", code="line_too_long")
        body = parse_body(DocumentLine, parse_json(line))
        return Text(body.text, body.external_id, body.tags)
    except Problem as problem:
        done["failed"] += 1
        if len(done["errors"]) < ERRORS_SHOWN:
            done["errors"].append({"line": place, "code": problem.code, "message": problem.message})
        return None
