"""Compare: two answers to one question, blind, by button or key, and the next one at once."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import as_uuid, optional_uuid, person
from feedback.markdown import render_markdown
from feedback.models import Assignment, Task
from feedback.services.answers import answer_task
from feedback.services.queue import (
    assignment_for,
    claim_task,
    skip_task,
    undo_last,
    waiting_count,
)
from inference.models import Completion
from projects.access import project_for
from projects.ids import uuid7
from projects.models import Project

MOST_HELD = 8  # questions that a page holds ahead
KINDS = (Task.Kind.COMPARE,)


@login_required
@never_cache
@require_GET
def compare(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    assignment = claim_task(project=project, rater=person(request), kinds=KINDS)
    return render(request, "feedback/compare.html", _question(request, project, assignment))


@login_required
@never_cache
@require_GET
def following(request: HttpRequest, slug: str) -> HttpResponse:
    """One more question than the page holds, fetched while the rater still reads."""
    return _next(request, project_for(request, slug))


@login_required
@require_POST
def vote(request: HttpRequest, slug: str, assignment_id: UUID) -> HttpResponse:
    """Record the verdict, or the skip; the answer is the next question."""
    project = project_for(request, slug)
    assignment = assignment_for(project=project, rater=person(request), assignment_id=assignment_id)
    verdict = request.POST.get("verdict", "")
    if verdict == "skip":
        skip_task(assignment=assignment)
    else:
        answer_task(
            assignment=assignment,
            answer={"verdict": verdict},
            seconds_spent=_seconds(request.POST.get("seconds", "")),
            client_id=optional_uuid(request, "id"),
        )
    return _next(request, project)


@login_required
@require_POST
def undo(request: HttpRequest, slug: str) -> HttpResponse:
    """Take the last vote or skip back; the answer is its question again."""
    project = project_for(request, slug)
    return _next(request, project, undone=undo_last(project=project, rater=person(request)))


def _next(request: HttpRequest, project: Project, undone: Assignment | None = None) -> HttpResponse:
    """The question that comes after those that the page holds already."""
    if request.headers.get("X-Partial") != "compare":
        return redirect("compare", slug=project.slug)
    held = [as_uuid(one, "holding") for one in request.headers.get("X-Holding", "").split(",") if one]
    assignment = undone or claim_task(
        project=project, rater=person(request), besides=held[:MOST_HELD], kinds=KINDS
    )
    return render(request, "feedback/_compare.html", _question(request, project, assignment))


def _question(request: HttpRequest, project: Project, assignment: Assignment | None) -> dict[str, Any]:
    rater = person(request)
    context: dict[str, Any] = {
        "project": project,
        "assignment": assignment,
        "waiting": waiting_count(project, rater, KINDS),
        "can_undo": Assignment.objects.filter(rater=rater, project=project, closed__isnull=False).exists(),
        "vote_id": uuid7(),
    }
    if assignment is not None:
        prompt = assignment.task.prompt
        answers = Completion.objects.in_bulk([UUID(one) for one in assignment.shown])
        context["history"], context["question"] = prompt.messages[:-1], prompt.question
        context["sides"] = [render_markdown(answers[UUID(one)].text) for one in assignment.shown]
    return context


def _seconds(text: str) -> float | None:
    """Seconds as the page measured them; nothing when it could not."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 86_400 else None
