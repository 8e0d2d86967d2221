"""The one error shape: `{"error": {"type", "code", "message", "param", "request_id"}}`, as OpenAI's.

Services raise a named subclass of Problem where the fact is known; here it becomes the answer. The message
says what to do.
"""

from __future__ import annotations

import errno
import logging
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse, UnreadablePostError
from rest_framework import exceptions as drf
from rest_framework.response import Response

logger = logging.getLogger(__name__)


class Problem(Exception):
    """Something that the caller can be told: a status, a stable code, a sentence and the field at fault."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"
    message = "The request is not valid."

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        **extra: Any,
    ) -> None:
        self.message = message or self.message
        self.code = code or self.code
        self.param = param
        self.retry_after = retry_after
        self.extra = extra  # further members of the error object, such as the id of the first judgement
        super().__init__(self.message)


class Invalid(Problem):
    """A value is wrong: 422 when the body could be read but says something impossible, else 400."""

    status = 422
    code = "invalid_value"


class Malformed(Problem):
    """The body is no JSON that we accept."""

    code = "malformed_body"


class NotAuthenticated(Problem):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    message = "Send a valid API key as `Authorization: Bearer rk_...`."


class SessionEnded(Problem):
    status = 401
    type = "authentication_error"
    code = "session_ended"
    message = "You are signed out. Sign in, and go on where you were."


class Forbidden(Problem):
    status = 403
    type = "permission_error"
    code = "insufficient_scope"
    message = "This key may not do that."


class NotFound(Problem):
    """Unknown and foreign look alike."""

    status = 404
    type = "not_found_error"
    code = "not_found"
    message = "There is no such thing in this project."


class MethodNotAllowed(Problem):
    status = 405
    code = "method_not_allowed"

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"Use {' or '.join(allowed)} here.")
        self.allowed = allowed


class Conflict(Problem):
    status = 409
    type = "conflict_error"
    code = "conflict"


class LengthRequired(Problem):
    status = 411
    code = "length_required"
    message = "This server does not read a body in chunks. Send it with Content-Length."


class TooLarge(Problem):
    status = 413
    code = "body_too_large"
    message = "The body is too large."


class UnsupportedMedia(Problem):
    status = 415
    code = "unsupported_media_type"
    message = "Send the body as application/json."


class TooMany(Problem):
    status = 429
    type = "rate_limit_error"
    code = "rate_limited"

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **{"retry_after": 1, **kwargs})


class Unavailable(Problem):
    """A part that we need is away; nothing was lost, and trying again is right."""

    status = 503
    type = "service_unavailable_error"
    code = "unavailable"

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **{"retry_after": 2, **kwargs})


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """The error object, for a response or for an event in mid-stream."""
    return {
        "error": {
            "type": problem.type,
            "code": problem.code,
            "message": problem.message,
            "param": problem.param,
            "request_id": request_id,
            **problem.extra,
        }
    }


def error_headers(problem: Problem) -> dict[str, str]:
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 401 and problem.code != SessionEnded.code:  # that one is for people
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(problem, MethodNotAllowed):
        headers["Allow"] = ", ".join(problem.allowed)
    return headers


def require_method(request: HttpRequest, *allowed: str) -> None:
    """Raises MethodNotAllowed."""
    if request.method not in allowed:
        raise MethodNotAllowed(*allowed)


def is_program(request: HttpRequest) -> bool:
    """Whether a program asks, and reads JSON: so says the address, a key, or what it accepts.

    A program whose base URL is wrong is told by the latter two; no page's script sends either.
    """
    return (
        f"{request.path}/".startswith(("/api/", "/v1/"))
        or request.headers.get("Authorization", "").lower().startswith("bearer ")
        or request.headers.get("Accept", "").startswith("application/json")
    )


def json_error(request: HttpRequest, problem: Problem) -> JsonResponse:
    body = error_body(problem, getattr(request, "request_id", ""))
    return JsonResponse(body, status=problem.status, headers=error_headers(problem))


def as_problem(error: Exception) -> Problem | None:
    """What an exception of Django, DRF or the database means to a caller; None when it is our own bug."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Http404 | drf.NotFound):
        return NotFound()
    if isinstance(error, RequestDataTooBig):
        return TooLarge()
    if isinstance(error, SuspiciousOperation):
        return Problem()
    if isinstance(error, UnreadablePostError):
        return Malformed("The body broke off.")
    if isinstance(error, drf.NotAuthenticated | drf.AuthenticationFailed):
        return NotAuthenticated()
    if isinstance(error, PermissionDenied | drf.PermissionDenied):
        return Forbidden()
    if isinstance(error, drf.MethodNotAllowed):
        return _with_status(405, "method_not_allowed", str(error.detail))
    if isinstance(error, drf.UnsupportedMediaType):
        return UnsupportedMedia()
    if isinstance(error, drf.NotAcceptable):
        return _with_status(406, "not_acceptable", "Answers are application/json.")
    if isinstance(error, drf.APIException) and error.status_code < 500:
        return _with_status(error.status_code, "invalid_request", str(error.detail))
    if _is_disk_full(error):
        logger.error("the disk is full: %s", error)
        return Unavailable(
            "The server has no room on its disk, and nothing was done. Its operator has to make some.",
            code="disk_full",
            retry_after=60,
        )
    if _is_database_away(error):
        logger.warning("the database does not answer: %s", error)
        return Unavailable(
            "The database does not answer. Try again in a moment.", code="database_unavailable"
        )
    return None


def api_exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook. Unknown exceptions go on to ErrorShapeMiddleware, which logs them."""
    if isinstance(error, drf.UnsupportedMediaType):
        wanted = " or ".join(parser.media_type for parser in context["view"].parser_classes)
        error = UnsupportedMedia(f"Send the body as {wanted}.")
    problem = as_problem(error)
    if problem is None:
        return None
    request_id = getattr(context["request"], "request_id", "")
    return Response(
        error_body(problem, request_id), status=problem.status, headers=error_headers(problem), exception=True
    )


def _with_status(status: int, code: str, message: str) -> Problem:
    problem = Problem(message, code=code)
    problem.status = status
    return problem


def _is_disk_full(error: Exception) -> bool:
    """Of ours, or of the database, for which Django has no class of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    signs = ("database or disk is full", "No space left on device", "Disk quota exceeded")
    return isinstance(error, OperationalError) and any(sign in str(error) for sign in signs)


def _is_database_away(error: Exception) -> bool:
    # SQLite has one name for all that goes wrong. A table or column that it lacks comes with no waiting:
    # somebody has to run `migrate`, and reads so in the log.
    if isinstance(error, OperationalError) and str(error).startswith("no such "):
        return False
    return isinstance(error, OperationalError | InterfaceError) or _is_pool_timeout(error)


def _is_pool_timeout(error: Exception) -> bool:
    # psycopg_pool.PoolTimeout reaches us bare or as the cause of a DatabaseError; SQLite has no such module.
    return "PoolTimeout" in {type(error).__name__, type(error.__cause__).__name__}
