"""Request ids, and errors in the one shape for programs or as a page for people."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse

from projects.error_pages import error_page
from projects.errors import LengthRequired, NotFound, Problem, SessionEnded, as_problem, json_error
from projects.ids import uuid7

logger = logging.getLogger(__name__)
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class _Middleware:
    """Works under WSGI and ASGI without a thread hop."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        response = self.before(request) or self.get_response(request)
        if self.is_async:
            return self._finish_async(request, response)
        assert not isinstance(response, Awaitable)  # noqa: S101 - a sync chain gives responses
        return self.after(request, response)

    async def _finish_async(
        self, request: HttpRequest, response: HttpResponseBase | Awaitable[HttpResponseBase]
    ) -> HttpResponseBase:
        return self.after(request, await response if isinstance(response, Awaitable) else response)

    def before(self, request: HttpRequest) -> HttpResponseBase | None:
        """An answer from here goes out at once."""
        return None

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        return response


class RequestIdMiddleware(_Middleware):
    """Every request has an id, the client's when it is well-formed; it is in the answer and in errors."""

    def before(self, request: HttpRequest) -> None:
        given = request.headers.get("X-Request-Id", "")
        request.request_id = given if _SAFE_ID.fullmatch(given) else str(uuid7())  # type: ignore[attr-defined]

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response["X-Request-Id"] = request.request_id  # type: ignore[attr-defined]
        return response


class ErrorShapeMiddleware(_Middleware):
    """Turns exceptions of views, and Django's own error answers, into the one shape."""

    def before(self, request: HttpRequest) -> HttpResponseBase | None:
        # REST reads as many bytes as Content-Length says. Without it a body would silently count as empty.
        if request.path.startswith("/api/") and "Transfer-Encoding" in request.headers:
            return json_error(request, LengthRequired())
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        problem = as_problem(error)
        if problem is None:
            logger.exception("unhandled error in %s %s", request.method, request.path, exc_info=error)
            problem = Problem("Something broke on our side. It has been logged.", code="internal_error")
            problem.type, problem.status = "server_error", 500
        return error_response(request, problem)

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_ours = response.headers.get("Content-Type", "").startswith(
            ("application/json", "text/event-stream")
        )
        if response.status_code >= 400 and is_program(request) and not is_ours and not response.streaming:
            shaped = json_error(request, _problem_of(response))
            if "Allow" in response.headers:
                shaped["Allow"] = response["Allow"]
            return shaped
        return response


class SignedOutMiddleware(_Middleware):
    """Without a session, a part of a page is refused and not answered with the sign-in page."""

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_part = request.headers.get("HX-Request") == "true"
        if is_part and response.status_code == 302 and response["Location"].startswith(reverse("login")):
            return error_page(request, SessionEnded())
        return response


def _problem_of(response: HttpResponseBase) -> Problem:
    """What one of Django's own error answers says."""
    problem = Problem(f"{response.reason_phrase}.", code=f"http_{response.status_code}")
    if response.status_code == 404:
        problem = NotFound("There is nothing at this address.")
    elif response.status_code == 405:
        problem.code = "method_not_allowed"
    elif response.status_code >= 500:
        problem.type = "server_error"
    problem.status = response.status_code
    return problem


def is_program(request: HttpRequest) -> bool:
    return request.path.startswith(("/api/", "/v1/"))


def error_response(request: HttpRequest, problem: Problem) -> HttpResponse:
    """JSON for programs, a page for people."""
    if is_program(request):
        return json_error(request, problem)
    return error_page(request, problem)
