"""The loop page: prompt, feedback, dataset, run, verdict, live, with today's numbers, kept fresh."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.forms import person
from feedback.services.queue import waiting_count
from projects.access import may, project_for
from projects.models import Membership
from training.pages.actions import choices_for
from training.pages.plots import quality_plot
from training.services.loop import loop_state

# Numbers like "3 minutes ago" are drawn again this often, even when nothing else changed.
AGE_STEP_SECONDS = 30


@login_required
@never_cache
@require_GET
def loop(request: HttpRequest, slug: str) -> HttpResponse:
    """The page, or its ring for a poll: 204 when nothing changed, so that nothing moves or loses focus."""
    project = project_for(request, slug)
    state = loop_state(project)
    is_manager = may(request.user, project, Membership.Role.MANAGER)
    context: dict[str, Any] = {
        "project": project,
        "state": state,
        "is_manager": is_manager,
        "to_compare": waiting_count(project, person(request)),
        "plot": quality_plot(state["quality_by_version"]),
    }
    context["seen"] = _digest(
        [state, context["to_compare"], int(timezone.now().timestamp()) // AGE_STEP_SECONDS]
    )
    if request.headers.get("HX-Request") == "true":
        if request.GET.get("seen") == context["seen"]:
            return HttpResponse(status=204)
        return render(request, "training/_ring.html", context)
    if is_manager:
        context |= choices_for(project)
    return render(request, "training/loop.html", context)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
