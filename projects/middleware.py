"""Request ids, and errors in the one shape for programs or as a page for people."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import urlsplit

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string
from django.utils.translation import gettext
from whitenoise.middleware import WhiteNoiseMiddleware  # type: ignore[import-untyped]

from projects.error_pages import error_response, not_a_page, unknown_address
from projects.errors import (
    LengthRequired,
    Problem,
    SessionEnded,
    TooMany,
    as_problem,
    is_program,
    json_error,
)
from projects.ids import uuid7
from projects.limits import add_headers, spend_for

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
    """Turns exceptions of views, and Django's own error answers, into the one shape.

    Every answer to a call of the API gets the few security headers that matter, a refusal too.
    """

    def before(self, request: HttpRequest) -> HttpResponseBase | None:
        # REST reads as many bytes as Content-Length says. ThreadedHandler counts them. Without it, on WSGI,
        # a body in chunks would silently count as empty.
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
        add_headers(request, response)
        is_ours = response.headers.get("Content-Type", "").startswith(
            ("application/json", "text/event-stream")
        )
        if response.status_code >= 400 and is_program(request) and not is_ours and not response.streaming:
            shaped = json_error(request, _problem_of(request, response))
            if "Allow" in response.headers:
                shaped["Allow"] = response["Allow"]
            response = shaped
        elif response.status_code == 405 and not is_program(request) and not response.streaming:
            response = not_a_page(request, cast(HttpResponse, response))
        return _plain_headers(response) if is_call(request) else response


class SignedOutMiddleware(_Middleware):
    """Without a session, a part of a page is refused and not answered with the sign-in page.

    A form that was sent is lost: who signs in comes back to the page that it was on, as the address that it
    went to has none to show.
    """

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.status_code != 302 or not response["Location"].startswith(reverse("login") + "?"):
            return response
        if request.headers.get("HX-Request") == "true":
            return error_response(request, SessionEnded())
        if request.method != "POST":
            return response
        messages.error(
            request, gettext("You were signed out, so nothing was sent. Sign in and send it again.")
        )
        return redirect_to_login(_page_before(request))


class StaticFilesMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # it has no types
    """WhiteNoise, which knows no ASGI: without this it held a thread for as long as a view took."""

    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        super().__init__(get_response)
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async and request.path_info.startswith(self.static_prefix):
            return self._look_async(request)
        found: HttpResponseBase | Awaitable[HttpResponseBase]
        found = self.get_response(request) if self.is_async else super().__call__(request)
        return found

    async def _look_async(self, request: HttpRequest) -> HttpResponseBase:
        found = await sync_to_async(super().__call__, thread_sensitive=False)(request)
        # Where there is no such file, what came back is the next one's answer in the making.
        response: HttpResponseBase = await found if isinstance(found, Awaitable) else found
        return response


class PagesMiddleware:
    """The middleware that only pages need, as one: a program's request passes it by.

    Under ASGI each of Django's own middlewares moves a request to a thread and back, which cost a label write
    more than its work. For a program this one only checks the host.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        self._viewing: list[Callable[..., HttpResponseBase | None]] = []
        self._pages = self._chain()
        if self.is_async:
            markcoroutinefunction(self)
        self.process_view = self._view_async if self.is_async else self._view

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self._answer_async(request)
        if not is_call(request):
            return self._pages(request)
        request.get_host()  # refuses a foreign one
        return self.get_response(request)

    async def _answer_async(self, request: HttpRequest) -> HttpResponseBase:
        if not is_call(request):
            response: HttpResponseBase = await self._pages(request)
            return response
        request.get_host()
        answer: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]  # it is_async
        return answer

    def _view(self, request: HttpRequest, *args: Any) -> HttpResponseBase | None:
        if is_call(request):
            return None
        return next((found for view in self._viewing if (found := view(request, *args)) is not None), None)

    async def _view_async(self, request: HttpRequest, *args: Any) -> HttpResponseBase | None:
        if is_call(request):
            return None
        return await sync_to_async(self._view)(request, *args)

    def _chain(self) -> Any:
        """The pages' middleware around `get_response`, each in a mode that it can, as Django does."""
        adapt = BaseHandler().adapt_method_mode
        handler: Any = self.get_response
        is_async = self.is_async
        for path in reversed(settings.PAGE_MIDDLEWARE):
            made = import_string(path)
            can_sync, can_async = getattr(made, "sync_capable", True), getattr(made, "async_capable", False)
            wants_async = can_async if is_async or not can_sync else False
            middleware = made(adapt(wants_async, handler, is_async))
            if hasattr(middleware, "process_view"):
                self._viewing.insert(0, middleware.process_view)
            handler, is_async = convert_exception_to_response(middleware), wants_async
        return adapt(self.is_async, handler, is_async)


class RaterLimitMiddleware(MiddlewareMixin):
    """So many posts a minute of one person: who clicks faster than anybody can read is a script."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if request.method == "POST" and request.path.startswith("/p/") and request.user.is_authenticated:
            try:
                spend_for(request, f"user:{request.user.pk}", limit=settings.RATE_LIMIT_RATER)
            except TooMany as problem:
                return error_response(request, problem)
        return None


def _page_before(request: HttpRequest) -> str:
    """The page of ours that a request came from, or the list of projects."""
    before = urlsplit(request.headers.get("Referer", ""))
    if before.netloc != request.get_host():
        return reverse("home")
    return before.path + (f"?{before.query}" if before.query else "")


def _plain_headers(response: HttpResponseBase) -> HttpResponseBase:
    """What a program's answer carries of the security headers; it is data, and no page may frame it."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    if settings.SECURE_HSTS_SECONDS:
        response.headers.setdefault("Strict-Transport-Security", f"max-age={settings.SECURE_HSTS_SECONDS}")
    if not response.streaming and "Content-Length" not in response:
        response["Content-Length"] = str(len(cast(HttpResponse, response).content))
    return response


def _problem_of(request: HttpRequest, response: HttpResponseBase) -> Problem:
    """What one of Django's own error answers says."""
    problem = Problem(f"{response.reason_phrase}.", code=f"http_{response.status_code}")
    if response.status_code == 404:
        problem = unknown_address(request)
    elif response.status_code == 405:
        problem.code = "method_not_allowed"
    elif response.status_code >= 500:
        problem.type = "server_error"
    problem.status = response.status_code
    return problem


def is_call(request: HttpRequest) -> bool:
    """A call of the API itself; its documentation is a page."""
    return request.path.startswith(("/api/v1/", "/v1/"))
