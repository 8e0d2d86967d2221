"""Errors as pages for people (a heading, what to do, the request's id), or in the one shape for programs."""

from __future__ import annotations

import re
import sys
from typing import Any
from urllib.parse import quote

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import REASON_BAD_ORIGIN
from django.shortcuts import render
from django.utils.translation import gettext

from projects.errors import (
    Forbidden,
    Malformed,
    NotFound,
    Problem,
    as_problem,
    error_headers,
    is_program,
    json_error,
)

_NOT_IN_HOSTS = re.compile(r"[^A-Za-z0-9.:\[\]_-]")
_NOT_IN_ORIGINS = re.compile(r"[^A-Za-z0-9.:\[\]_/+-]")


class HostNotAllowed(Problem):
    code = "host_not_allowed"


def error_response(request: HttpRequest, problem: Problem) -> HttpResponse:
    """JSON for programs, a page for people."""
    if is_program(request):
        return json_error(request, problem)
    return error_page(request, problem)


def error_page(request: HttpRequest, problem: Problem) -> HttpResponse:
    """The page for `problem`. Its sentence is in a header too, for scripts that show it in place."""
    context = {
        "problem": problem,
        "heading": _heading(problem.status),
        "request_id": getattr(request, "request_id", "") if problem.status >= 500 else "",
    }
    response = render(request, "error.html", context, status=problem.status)
    response["X-Ratchet-Message"] = quote(problem.message)
    for name, value in error_headers(problem).items():
        response[name] = value
    return response


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(request, unknown_address(request))


def unknown_address(request: HttpRequest) -> NotFound:
    """For a program, what is served instead: its base URL may be wrong, or it wants more of OpenAI's API."""
    if not is_program(request):
        return NotFound(gettext("There is nothing at this address."))
    return NotFound(
        f"{request.path[:80]} is not served here. Of OpenAI's API there are POST /v1/chat/completions and "
        "GET /v1/models, so a base URL ends in /v1; the rest of the API is under /api/v1."
    )


def not_a_page(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """For Django's own 405: an address that only takes what is sent was opened."""
    sentence = gettext("There is no page at this address, only something that a form is sent to.")
    problem = Problem(sentence, code="method_not_allowed")
    problem.status = 405
    page = error_page(request, problem)
    page["Allow"] = response["Allow"]
    return page


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(request, Forbidden(gettext("Your account may not do that.")))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        # Whoever sent it chose it: only what a host can be made of is said again.
        host = _NOT_IN_HOSTS.sub("?", request.headers.get("Host", ""))[:100]
        sentence = gettext(
            "This server does not answer to the host “%(host)s”. Its operator can add the name, without a "
            "port, to the setting ALLOWED_HOSTS."
        )
        return error_response(request, HostNotAllowed(sentence % {"host": host}))
    return error_response(request, Malformed(gettext("The request could not be read.")))


def server_error(request: HttpRequest) -> HttpResponse:
    """Also for what broke before a view: the database may be away when the session is read."""
    error = sys.exception()
    problem = as_problem(error) if isinstance(error, Exception) else None
    if problem is None:
        problem = Problem(gettext("Something broke on our side. It has been logged."), code="internal_error")
        problem.status = 500
    return error_response(request, problem)


def csrf_failure(request: HttpRequest, reason: str = "", **kwargs: Any) -> HttpResponse:
    """The form was older than the session, cookies are off, or a proxy does not say that it ends TLS."""
    origin = request.headers.get("Origin", "")
    if reason == REASON_BAD_ORIGIN % origin:
        sentence = gettext(
            "This server takes no forms from %(origin)s. If that is its own address, its operator lets the "
            "proxy send Host and X-Forwarded-Proto, or adds it to the setting CSRF_TRUSTED_ORIGINS."
        )
        said = _NOT_IN_ORIGINS.sub("?", origin)[:100]
        return error_response(request, Forbidden(sentence % {"origin": said}, code="csrf"))
    sentence = gettext(
        "This page is older than your sign-in. Reload it and try again; cookies must be allowed."
    )
    return error_response(request, Forbidden(sentence, code="csrf"))


def _heading(status: int) -> str:
    headings = {
        400: gettext("That request makes no sense"),
        401: gettext("Signed out"),
        403: gettext("Not allowed"),
        404: gettext("Not found"),
        405: gettext("Nothing to see here"),
        409: gettext("Somebody was first"),
        413: gettext("Too large"),
        422: gettext("That does not go"),
        429: gettext("Too much at once"),
        503: gettext("Not available just now"),
    }
    return headings.get(status, gettext("Something broke") if status >= 500 else gettext("That does not go"))
