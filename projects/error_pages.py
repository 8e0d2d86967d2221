"""Errors as pages for people: a heading, what to do, and the request's id."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext

from projects.errors import Forbidden, Malformed, NotFound, Problem, as_problem, error_headers, json_error


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
    if request.headers.get("Accept", "").startswith("application/json"):
        # A program, and most likely one whose base URL lacks the prefix.
        return json_error(request, NotFound("There is nothing here. The API is under /v1 and /api/v1."))
    return error_page(request, NotFound(gettext("There is nothing at this address.")))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, Forbidden(gettext("Your account may not do that.")))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, Malformed(gettext("The request could not be read.")))


def server_error(request: HttpRequest) -> HttpResponse:
    """Also for what broke before a view: the database may be away when the session is read."""
    error = sys.exception()
    problem = as_problem(error) if isinstance(error, Exception) else None
    if problem is None:
        problem = Problem(gettext("Something broke on our side. It has been logged."), code="internal_error")
        problem.status = 500
    return error_page(request, problem)


def csrf_failure(request: HttpRequest, reason: str = "", **kwargs: Any) -> HttpResponse:
    """The form was older than the session, or cookies are off."""
    sentence = gettext(
        "This page is older than your sign-in. Reload it and try again; cookies must be allowed."
    )
    return error_page(request, Forbidden(sentence, code="csrf"))


def _heading(status: int) -> str:
    headings = {
        400: gettext("That request makes no sense"),
        401: gettext("Signed out"),
        403: gettext("Not allowed"),
        404: gettext("Not found"),
        409: gettext("Somebody was first"),
        413: gettext("Too large"),
        422: gettext("That does not go"),
        429: gettext("Too much at once"),
        503: gettext("Not available just now"),
    }
    return headings.get(status, gettext("Something broke") if status >= 500 else gettext("That does not go"))
