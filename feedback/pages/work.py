"""Work: one question after the other, of any kind, by button or key, and the next one at once."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.errors import AlreadyJudged
from feedback.forms import as_uuid, optional_uuid, person
from feedback.markdown import render_markdown
from feedback.models import Assignment, Task
from feedback.services.answers import answer_task, save_draft
from feedback.services.queue import (
    FOR_RATERS,
    assignment_for,
    claim_task,
    flag_task,
    queue_state,
    renew_lease,
    skip_task,
    undo_last,
    waiting_count,
)
from feedback.services.standings import confirm_guidelines, must_qualify, standing_of
from feedback.services.workbench import workbench_of
from feedback.worksheet import Worksheet
from projects.access import project_for
from projects.bodies import parse_json
from projects.errors import Conflict, Invalid
from projects.ids import uuid7
from projects.models import Membership, Project

MOST_HELD = 8  # questions that a page holds ahead
KINDS: dict[str, tuple[str, ...]] = {
    "": FOR_RATERS,
    **{kind: (kind,) for kind in FOR_RATERS},
    Task.Kind.REVIEW: (Task.Kind.REVIEW,),
}


@login_required
@never_cache
@require_GET
def work(request: HttpRequest, slug: str) -> HttpResponse:
    """Questions for raters, of all kinds or of `?kind=`; those of reviewers under `?kind=review`."""
    project = _project(request, slug)
    standing = standing_of(project, person(request))
    if project.guidelines and standing.guidelines_read < project.guideline_version:
        context = {
            "project": project,
            "guidelines": render_markdown(project.guidelines),
            "kind": _kind(request),
        }
        return render(request, "feedback/work_begin.html", context)
    assignment = claim_task(project=project, rater=person(request), kinds=KINDS[_kind(request)])
    return render(request, "feedback/work.html", _question(request, project, assignment))


@login_required
@require_POST
def begin(request: HttpRequest, slug: str) -> HttpResponse:
    """The guidelines in force were read; a new edition is shown again."""
    project = _project(request, slug)
    confirm_guidelines(project=project, rater=person(request))
    return redirect(_address(project, _kind(request)))


@login_required
@never_cache
@require_GET
def following(request: HttpRequest, slug: str) -> HttpResponse:
    """One more question than the page holds, fetched while the rater still reads."""
    return _next(request, _project(request, slug))


@login_required
@require_POST
def answer(request: HttpRequest, slug: str, assignment_id: UUID) -> HttpResponse:
    """Record what was said; the answer is the next question."""
    project = _project(request, slug)
    try:
        answer_task(
            assignment=_assignment(request, project, assignment_id),
            answer=_said(request, "answer"),
            seconds_spent=_seconds(request.POST.get("seconds", "")),
            client_id=optional_uuid(request, "id"),
        )
    except AlreadyJudged as error:
        sentence = gettext("You judged this before, in another place or window, and that counts.")
        raise Conflict(sentence, code=error.code) from error
    return _next(request, project, can_undo=True)


@login_required
@require_POST
def skip(request: HttpRequest, slug: str, assignment_id: UUID) -> HttpResponse:
    """Give the question to others; the answer is the next one."""
    project = _project(request, slug)
    reason = request.POST.get("reason", "")
    skip_task(assignment=_assignment(request, project, assignment_id), reason=reason)
    return _next(request, project)


@login_required
@require_POST
def flag(request: HttpRequest, slug: str, assignment_id: UUID) -> HttpResponse:
    """Flag one of the answers, and give the question to others; the answer is the next one."""
    project = _project(request, slug)
    completion_id, _, reason = request.POST.get("flag", "").partition(":")
    flag_task(
        assignment=_assignment(request, project, assignment_id),
        completion_id=as_uuid(completion_id, "flag"),
        reason=reason,
        client_id=optional_uuid(request, "id"),
    )
    return _next(request, project)


@login_required
@require_POST
def draft(request: HttpRequest, slug: str, assignment_id: UUID) -> HttpResponse:
    """Keep what was said so far, and the place with it."""
    project = _project(request, slug)
    save_draft(assignment=_assignment(request, project, assignment_id), draft=_said(request, "draft"))
    return HttpResponse(status=204)


@login_required
@require_POST
def renew(request: HttpRequest, slug: str, assignment_id: UUID) -> HttpResponse:
    """The rater is still reading."""
    renew_lease(assignment=_assignment(request, _project(request, slug), assignment_id))
    return HttpResponse(status=204)


@login_required
@require_POST
def undo(request: HttpRequest, slug: str) -> HttpResponse:
    """Take the last answer or skip back; what comes is its question again."""
    project = _project(request, slug)
    return _next(request, project, undone=undo_last(project=project, rater=person(request)))


def _project(request: HttpRequest, slug: str) -> Project:
    """Reviews are for reviewers."""
    is_review = _kind(request) == Task.Kind.REVIEW
    return project_for(request, slug, Membership.Role.REVIEWER if is_review else Membership.Role.RATER)


def _kind(request: HttpRequest) -> str:
    kind = request.GET.get("kind", "")
    if kind not in KINDS:
        raise Invalid(gettext("kind must be compare, rate, correct or review."), param="kind")
    return kind


def _address(project: Project, kind: str) -> str:
    return reverse("work", kwargs={"slug": project.slug}) + (f"?kind={kind}" if kind else "")


def _assignment(request: HttpRequest, project: Project, assignment_id: UUID) -> Assignment:
    return assignment_for(project=project, rater=person(request), assignment_id=assignment_id)


def _said(request: HttpRequest, field: str) -> dict[str, Any]:
    """The JSON object in a field; a page without scripts sends the verdict of two answers as it is."""
    if verdict := request.POST.get("verdict"):
        return {"verdict": verdict}
    value = parse_json(request.POST.get(field, "").encode())
    if not isinstance(value, dict):
        raise Invalid(gettext("Send a JSON object."), param=field)
    return value


def _next(
    request: HttpRequest, project: Project, *, undone: Assignment | None = None, can_undo: bool = False
) -> HttpResponse:
    """The question that comes after those that the page holds already."""
    kind = _kind(request)
    if request.headers.get("X-Partial") != "work":
        return redirect(_address(project, kind))
    held = [as_uuid(one, "holding") for one in request.headers.get("X-Holding", "").split(",") if one]
    assignment = undone or claim_task(
        project=project, rater=person(request), besides=held[:MOST_HELD], kinds=KINDS[kind]
    )
    context = _question(request, project, assignment, can_undo=can_undo)
    return render(request, "feedback/_work.html", context)


def _question(
    request: HttpRequest, project: Project, assignment: Assignment | None, *, can_undo: bool = False
) -> dict[str, Any]:
    """`can_undo`: whether it is known that there is something; else the database is asked."""
    rater, kind = person(request), _kind(request)
    kinds = KINDS[kind]
    is_empty = assignment is None
    standing = standing_of(project, rater)
    return {
        "project": project,
        "kind": kind,
        "query": f"?kind={kind}" if kind else "",
        "sheet": Worksheet.of(assignment) if assignment is not None else None,
        "state": queue_state(project=project, rater=rater, kinds=kinds, is_empty=True) if is_empty else None,
        "waiting": waiting_count(project, rater, kinds),
        "today": standing.answered_on(timezone.localdate()),
        # While it holds every question is gold; at any other time nothing may tell gold from the rest.
        "must_qualify": must_qualify(standing, workbench_of(project)),
        "can_undo": can_undo
        or Assignment.objects.filter(rater=rater, project=project, closed__isnull=False).exists(),
        "answer_id": uuid7(),
    }


def _seconds(text: str) -> float | None:
    """Seconds as the page measured them; nothing when it could not."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 86_400 else None
