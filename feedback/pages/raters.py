"""Raters: how far each one is trusted and why, how far they agree, and what a manager does about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import person
from feedback.models import Agreement, RaterEvent, Standing
from feedback.services.raters import quarantine_rater, restore_rater, set_weight, watch_rater
from feedback.services.workbench import workbench_of
from projects.access import project_for
from projects.errors import Invalid, Problem
from projects.models import Membership
from projects.services import Actor

MOST_EVENTS = 100
ACTIONS: dict[str, Callable[..., Standing]] = {
    "quarantine": quarantine_rater,
    "watch": watch_rater,
    "restore": restore_rater,
}


@login_required
@never_cache
@require_GET
def raters(request: HttpRequest, slug: str) -> HttpResponse:
    """Everybody who rated, those to look at first."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    order = {status: place for place, status in enumerate(("watched", "quarantined", "new", "qualified"))}
    standings = Standing.objects.filter(project=project).select_related("user")
    context = {
        "project": project,
        "standings": sorted(standings, key=lambda one: (order[one.status], one.user.username)),
        "asks_gold": workbench_of(project).qualification_tasks > 0,
        "agreements": Agreement.objects.filter(project=project),
    }
    return render(request, "feedback/raters.html", context)


@login_required
@never_cache
@require_GET
def rater(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    """One rater: the numbers, what was decided, and the buttons."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    standing = get_object_or_404(Standing.objects.select_related("user"), project=project, user_id=user_id)
    events = RaterEvent.objects.filter(project=project, rater=standing.user).select_related("user")
    context = {"project": project, "standing": standing, "events": events[:MOST_EVENTS]}
    return render(request, "feedback/rater.html", context)


@login_required
@require_POST
def judge_rater(request: HttpRequest, slug: str, user_id: int) -> HttpResponse:
    """Quarantine, watch, restore, or another weight, with a reason."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    standing = get_object_or_404(Standing, project=project, user_id=user_id)
    common: dict[str, Any] = {
        "project": project,
        "rater": standing.user,
        "actor": Actor(user=person(request)),
        "reason": request.POST.get("reason", ""),
    }
    action = request.POST.get("action", "")
    try:
        if action == "weight":
            set_weight(weight=_weight(request.POST.get("weight", "")), **common)
        elif action in ACTIONS:
            ACTIONS[action](**common)
        else:
            raise Invalid(gettext("There is no such action."), param="action")
        messages.success(request, gettext("Done. It counts from now on, and can be undone here."))
    except Problem as problem:
        messages.error(request, problem.message)
    return redirect("rater", slug=project.slug, user_id=user_id)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Invalid(gettext("A weight is a number from 0 to 1."), param="weight") from None
