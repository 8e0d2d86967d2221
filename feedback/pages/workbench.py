"""The workbench's settings: guidelines and form by edition, what is drawn, and who is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from feedback.forms import person
from feedback.models import Task, Workbench
from feedback.services.workbench import SETTINGS, update_workbench, workbench_of
from feedback.worksheet import Question
from projects.access import project_for
from projects.bodies import parse_body, parse_json
from projects.errors import Invalid, Problem
from projects.form import Form
from projects.models import Membership, Project
from projects.services import Actor, update_project


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def workbench(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    bench = workbench_of(project)
    refused: dict[str, str] = {}
    if request.method == "POST":
        try:
            _save(request, project, bench)
            messages.success(request, gettext("Saved."))
            return redirect("workbench", slug=project.slug)
        except Problem as problem:
            # What was typed stays on the page, and the sentence stands where it belongs.
            messages.error(request, problem.message)
            name = (problem.param or "").partition(".")[0]
            refused["form" if name in ("aspects", "comment") else name] = problem.message
    given = request.POST if request.method == "POST" else {}
    labels = _labels()
    context = {
        "project": project,
        "bench": bench,
        "refused": refused,
        "guidelines": given.get("guidelines", project.guidelines),
        "form": given.get("form", json.dumps(project.form, indent=2, ensure_ascii=False)),
        "strategies": [
            (name, label, given.get(f"weight-{name}", bench.weights.get(name, 0)))
            for name, label in Task.Strategy.choices
        ],
        "fields": [
            (field, labels.get(field.name, field.name), _shown(bench, field, given), _kind_of(field))
            for field in (Workbench._meta.get_field(name) for name in SETTINGS if name != "weights")
        ],
        "live_kinds": (Task.Kind.RATE, Task.Kind.CORRECT),
        "editions": project.editions.select_related("user")[:20],
    }
    return render(request, "feedback/workbench.html", context)


@login_required
@never_cache
@require_POST
def preview_form(request: HttpRequest, slug: str) -> HttpResponse:
    """A form as raters would see it, or what is wrong with it and where. Nothing is saved."""
    project_for(request, slug, Membership.Role.MANAGER)
    try:
        form = parse_body(Form, parse_json(request.POST.get("form", "").encode()))
        context = {"questions": [Question.of(one) for one in form.aspects], "takes_comment": form.comment}
    except Problem as problem:
        context = {"problem": problem}
    return render(request, "feedback/_form_preview.html", context)


@transaction.atomic
def _save(request: HttpRequest, project: Project, bench: Workbench) -> None:
    """Only what changed: a new edition is for new words, not for a press of the button."""
    actor = Actor(user=person(request))
    changes = {
        name: value for name in SETTINGS if (value := _read(request, bench, name)) != getattr(bench, name)
    }
    if changes:
        update_workbench(project=project, actor=actor, **changes)
    changed = []
    guidelines = request.POST.get("guidelines", "").replace("\r\n", "\n").strip()
    if guidelines != project.guidelines.strip():
        project.guidelines = guidelines
        changed.append("guidelines")
    form = parse_json(request.POST.get("form", "").encode())
    if form != project.form:
        project.form = form
        changed.append("form")
    if changed:
        update_project(project=project, changed=changed, actor=actor)


def _read(request: HttpRequest, bench: Workbench, name: str) -> Any:
    """A setting as it was typed. Raises Invalid."""
    if name == "weights":
        weights = {one.value: _number(request, f"weight-{one}", float) for one in Task.Strategy}
        return {strategy: weight for strategy, weight in weights.items() if weight}
    old = getattr(bench, name)
    if isinstance(old, bool):
        return request.POST.get(name) == "on"
    if isinstance(old, int | float):
        return _number(request, name, type(old))
    return request.POST.get(name, "")


def _number(request: HttpRequest, name: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(request.POST.get(name, ""))
    except ValueError:
        raise Invalid(gettext("%(name)s must be a number.") % {"name": name}, param=name) from None


def _shown(bench: Workbench, field: Any, given: Mapping[str, Any]) -> Any:
    """As it was typed; a box without a tick is not sent at all."""
    if given and _kind_of(field) == "bool":
        return field.name in given
    return given.get(field.name, getattr(bench, field.name))


def _labels() -> dict[str, str]:
    return {
        "random_share": gettext("Always at random"),
        "overlap": gettext("Raters a task"),
        "live_share": gettext("Share of live answers"),
        "live_kind": gettext("Raters are to do with these"),
        "samples_conversations": gettext("Chats, too"),
        "daily_cap": gettext("Most answers a day"),
        "gold_share": gettext("Share of gold"),
        "qualification_tasks": gettext("Gold to qualify"),
        "qualification_accuracy": gettext("Right, to qualify"),
        "min_seconds": gettext("Seconds at least"),
        "reviews_disputes": gettext("Reviewers settle disputes"),
        "review_below": gettext("Disputed below"),
        "flag_raters": gettext("Different raters who flag"),
    }


def _kind_of(field: Any) -> str:
    names = {"BooleanField": "bool", "FloatField": "float", "CharField": "choice"}
    return names.get(field.get_internal_type(), "int")
