"""The front door: sign-in leads to one's projects."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render

from projects.access import projects_of


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """With one project, straight into it; with several, a list."""
    projects = list(projects_of(request.user)[:50])
    if len(projects) == 1:
        return redirect("chat", slug=projects[0].slug)
    return render(request, "projects/home.html", {"projects": projects})


def onward(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """A redirect, for a page's script as well: one that it followed itself would use up the next page's
    messages."""
    if request.headers.get("HX-Request") == "true" and response.status_code == 302:
        return HttpResponse(headers={"HX-Redirect": response["Location"]})
    return response


def healthz(request: HttpRequest) -> JsonResponse:
    """The web process answers. It says nothing of the database or the engine."""
    return JsonResponse({"status": "ok"})
