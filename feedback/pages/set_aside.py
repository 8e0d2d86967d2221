"""Answers that flags set aside, for reviewers: what was said of each, and its way back."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import as_uuid, person
from feedback.markdown import render_markdown
from feedback.models import Flag, SetAside
from feedback.services.set_aside import release_answer
from feedback.threads import flag_label
from projects.access import project_for
from projects.errors import Problem
from projects.models import Membership, User
from projects.services import Actor

PAGE = 50


@login_required
@never_cache
@require_GET
def set_aside(request: HttpRequest, slug: str) -> HttpResponse:
    """Newest first, the released ones too; `?before=` is the id of the last one shown."""
    project = project_for(request, slug, Membership.Role.REVIEWER)
    found = SetAside.objects.filter(project=project)
    if before := request.GET.get("before", ""):
        found = found.filter(pk__lt=as_uuid(before, "before"))
    rows = list(found.select_related("completion__prompt__conversation", "released_by")[: PAGE + 1])
    shown = rows[:PAGE]
    flags = Flag.objects.usable().filter(completion__in=[row.completion_id for row in shown])
    context = {
        "project": project,
        "rows": [_shown(row, person(request), list(flags)) for row in shown],
        "next": shown[-1].pk if len(rows) > PAGE else None,
    }
    return render(request, "feedback/set_aside.html", context)


@login_required
@require_POST
def release(request: HttpRequest, slug: str, completion_id: UUID) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.REVIEWER)
    try:
        release_answer(project=project, completion_id=completion_id, actor=Actor(user=person(request)))
        messages.success(request, gettext("It is in use again. Flags from before count no more."))
    except Problem as problem:
        messages.error(request, problem.message)
    return redirect("set_aside", slug=project.slug)


def _shown(row: SetAside, reader: User, flags: list[Flag]) -> dict[str, Any]:
    """The text of an answer in somebody else's conversation is theirs, and is left out. Nobody is named."""
    prompt, mine = row.completion.prompt, [flag for flag in flags if flag.completion_id == row.completion_id]
    is_private = prompt.conversation is not None and prompt.conversation.owner_id != reader.pk
    return {
        "row": row,
        "question": "" if is_private else prompt.question,
        "html": "" if is_private else render_markdown(row.completion.text),
        "is_private": is_private,
        "reasons": [(flag_label(key), n) for key, n in sorted(Counter(f.reason for f in mine).items())],
        "comments": [flag.comment for flag in mine if flag.comment],
    }
