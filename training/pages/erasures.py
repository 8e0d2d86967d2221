"""Erasing a person: whom, what it will do, that it is done, and the proof."""

from __future__ import annotations

import json

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import person as who_asks
from projects.access import project_for
from projects.errors import Invalid, NotFound, Problem
from projects.models import Membership, Project
from projects.people import Person
from projects.services import Actor
from projects.threaded import takes_long
from training.api.erasures import ErasureSerializer
from training.models import Compilation, Erasure
from training.pages.actions import followed, manager_action
from training.services.compilations import begin
from training.services.erasure import find_person, foretell_erasure, request_erasure
from training.tasks import ring, tick_erasures, tick_runs


@login_required
@never_cache
@require_GET
def erasures(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    return render(request, "training/erasures.html", _desk(project, user=request.GET.get("user", "")))


@takes_long("POST")
@login_required
@never_cache
@require_POST
def ask(request: HttpRequest, slug: str) -> HttpResponse:
    """What it would do, to be confirmed. POST, so that no name stands in a log of addresses."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    context = _desk(project)
    try:
        person, mode = _wanted(request, project)
        context |= {
            "foretold": foretell_erasure(person, mode=mode),
            "mode": mode,
            "person": person,
            "reason": request.POST.get("reason", "")[:300],
        }
    except Problem as problem:
        context["refusal"] = problem.message
    return render(request, "training/erasures.html", context)


@login_required
@never_cache
@require_POST
def confirm(request: HttpRequest, slug: str) -> HttpResponse:
    """The name is written once more by whoever confirms."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    try:
        person, mode = _wanted(request, project)
        name = person.subject or person.names[0]
        if request.POST.get("again", "").strip() != name:
            raise Invalid(gettext("Write the name once more, exactly, to confirm."), param="again")
        erasure, _ = request_erasure(
            person=person,
            mode=mode,
            reason=request.POST.get("reason", "")[:300],
            actor=Actor(user=who_asks(request)),
        )
    except Problem as problem:
        return render(request, "training/erasures.html", {**_desk(project), "refusal": problem.message})
    ring(tick_erasures)
    return redirect("erasure", slug=slug, number=erasure.number)


@login_required
@never_cache
@require_GET
def erasure(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    found = _find(project, number)
    context = {
        "project": project,
        "erasure": found,
        "counts": [(what, n, found.after.get(what)) for what, n in found.before.items() if n],
    }
    template = "_erasure.html" if request.headers.get("HX-Request") == "true" else "erasure.html"
    return render(request, f"training/{template}", context)


@login_required
@never_cache
@require_GET
def report(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    found = _find(project, number)
    body = json.dumps({"project": project.slug, **ErasureSerializer(found).data}, indent=2)
    response = HttpResponse(body, content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="{project.slug}-erasure-{number}.json"'
    return response


@manager_action
def retrain(request: HttpRequest, project: Project, actor: Actor, number: int) -> HttpResponse:
    wanted = {"erasure": _find(project, number).number}
    run = begin(project=project, kind="retrain", wanted=wanted, actor=actor)
    if isinstance(run, Compilation):
        return followed(run)
    ring(tick_runs)
    messages.success(request, gettext("Run %(n)d learns without them.") % {"n": run.number})
    return redirect("run", slug=project.slug, number=run.number)


def _desk(project: Project, user: str = "") -> dict[str, object]:
    return {
        "project": project,
        "erasures": Erasure.objects.filter(project=project)[:50],
        "modes": Erasure.Mode.choices,
        "asked_user": user,
    }


def _wanted(request: HttpRequest, project: Project) -> tuple[Person, str]:
    """Whom, and how. Raises Invalid, NotFound."""
    mode = request.POST.get("mode", "")
    if mode not in Erasure.Mode.values:
        raise Invalid(gettext("Choose what becomes of their judgements."), param="mode")
    user, subject = request.POST.get("user", "").strip(), request.POST.get("subject", "").strip()
    return find_person(project=project, user=user, subject=subject), mode


def _find(project: Project, number: int) -> Erasure:
    found = Erasure.objects.select_related("project").filter(project=project, number=number).first()
    if found is None:
        raise NotFound(gettext("There is no such erasure in this project."))
    return found
