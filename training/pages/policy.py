"""The policy: edited field by field, tried out in a sentence, and what it was before."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import person
from projects.access import project_for
from projects.errors import Problem
from projects.models import AuditEvent, Membership, Project
from projects.services import Actor
from training.models import Policy
from training.services.plans import dry_run_in_words
from training.services.policy_changes import (
    FIELDS,
    METHOD_NAMES,
    InvalidPolicy,
    policy_of,
    set_policy,
    with_changes,
)

HISTORY = 20
_FLAGS = ("is_enabled", "asks_raters")
_FRACTIONS = ("day_hours", "week_hours", "margin")
_WORDS = ("cron", "method", "approval", "promotion")


@login_required
@never_cache
@require_GET
def policy(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    return render(request, "training/policy.html", _page(project, _as_said(policy_of(project))))


@login_required
@never_cache
@require_POST
def change_policy(request: HttpRequest, slug: str) -> HttpResponse:
    """Save it, or with `act=try` only say what it would do. What is wrong is said at its field."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    said = {name: request.POST.get(name, "") for name in FIELDS}
    is_part = request.headers.get("HX-Request") == "true"
    try:
        changes = _read(request.POST)
        if request.POST.get("act") == "try":
            would = dry_run_in_words(with_changes(policy_of(project), changes), timezone.now())
            context = _page(project, said, would=would)
            return render(
                request, "training/_policy_would.html" if is_part else "training/policy.html", context
            )
        version = request.POST.get("version", "")
        set_policy(
            project=project,
            changes=changes,
            actor=Actor(user=person(request)),
            version=int(version[:9]) if version.isdecimal() else None,  # a longer one never stood
        )
    except Problem as problem:
        fields = problem.extra.get("fields") or ({problem.param: problem.message} if problem.param else {})
        context = _page(project, said, problems=fields, refusal=problem.message)
        return render(request, "training/_policy_would.html" if is_part else "training/policy.html", context)
    messages.success(request, gettext("The policy is saved."))
    return redirect("policy", slug=project.slug)


def _page(
    project: Project, said: dict[str, Any], *, problems: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """`at` is what stands in each field and what is wrong with it."""
    problems = problems or {}
    stands = policy_of(project)
    events = AuditEvent.objects.filter(project=project, action="policy.set").select_related("user", "api_key")
    return {
        "project": project,
        "at": {name: {"value": said[name], "problem": problems.get(name, "")} for name in FIELDS},
        "stands": stands,
        "methods": METHOD_NAMES,
        "approvals": Policy.Approval.choices,
        "promotions": Policy.Promotion.choices,
        "history": events.order_by("-created")[:HISTORY],
        "problems": problems,
        **more,
    }


def _as_said(stands: Policy) -> dict[str, Any]:
    """The values as the form's fields hold them."""
    said = {name: getattr(stands, name) for name in FIELDS}
    said |= {name: "yes" if said[name] else "" for name in _FLAGS}
    return {**said, "config": json.dumps(stands.config, indent=1) if stands.config else ""}


def _read(posted: QueryDict) -> dict[str, Any]:
    """Raises InvalidPolicy for what is no number, or no JSON, at its field."""
    changes: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name in FIELDS:
        text = posted.get(name, "").strip()
        try:
            changes[name] = _value(name, text)
        except ValueError as error:
            problems[name] = str(error)
    if problems:
        name, message = next(iter(problems.items()))
        raise InvalidPolicy(message, param=name, fields=problems)
    return changes


def _value(name: str, text: str) -> Any:
    """Raises ValueError with a sentence."""
    if name in _FLAGS:
        return text == "yes"
    if name in _WORDS:
        return text
    if name == "config":
        try:
            return json.loads(text) if text else {}
        except json.JSONDecodeError as error:
            raise ValueError(gettext("This is not valid JSON: %s.") % error) from error
    try:
        return float(text or 0) if name in _FRACTIONS else int(text or 0)
    except ValueError as error:
        raise ValueError(gettext("Write a number, not “%s”.") % text) from error
