"""The conversations beside the chat: found, renamed, deleted and restored; and the branches within one."""

from __future__ import annotations

import json
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import as_uuid, optional_uuid, person
from feedback.history import AT_ONCE, history_of
from feedback.services.conversations import (
    delete_conversation,
    rename_conversation,
    restore_conversation,
    show_branch,
)
from feedback.services.sources import opt_out_conversation
from feedback.threads import conversation_for, turns_of
from inference.models import Conversation
from projects.access import project_for
from projects.models import Project
from projects.numbers import read_whole

MOST_AT_ONCE = 10_000


@login_required
@never_cache
@require_GET
def history(request: HttpRequest, slug: str) -> HttpResponse:
    """The list: `q` is looked for in titles, questions and answers; `count` is how many to show."""
    project = project_for(request, slug)
    count = read_whole(request.GET.get("count", ""), digits=5)
    here = request.GET.get("here", "")
    return _list(
        request,
        project,
        here=as_uuid(here, "here") if here else None,
        count=AT_ONCE if count is None else min(count, MOST_AT_ONCE),
    )


@login_required
@require_POST
def rename(request: HttpRequest, slug: str, conversation_id: UUID) -> HttpResponse:
    project = project_for(request, slug)
    conversation = conversation_for(project, person(request), conversation_id)
    rename_conversation(conversation=conversation, title=request.POST.get("title", ""))
    return _list(request, project, here=optional_uuid(request, "here"))


@login_required
@require_POST
def delete(request: HttpRequest, slug: str, conversation_id: UUID) -> HttpResponse:
    """Off the list. The page offers to undo it."""
    project, user = project_for(request, slug), person(request)
    conversation = conversation_for(project, user, conversation_id)
    delete_conversation(conversation=conversation)
    response = _list(request, project, here=optional_uuid(request, "here"))
    address = {"slug": slug, "conversation_id": conversation_id}
    told = {
        "id": str(conversation.pk),
        "restore": reverse("restore_conversation", kwargs=address),
        "address": reverse("conversation", kwargs=address),
    }
    response["HX-Trigger"] = json.dumps({"conversation-deleted": told})
    return response


@login_required
@require_POST
def restore(request: HttpRequest, slug: str, conversation_id: UUID) -> HttpResponse:
    project = project_for(request, slug)
    restore_conversation(project=project, owner=person(request), conversation_id=conversation_id)
    return _list(request, project, here=optional_uuid(request, "here"))


@login_required
@require_POST
def sampling(request: HttpRequest, slug: str) -> HttpResponse:
    """Whether raters may be shown answers of the conversation; of a new one its first question says it."""
    project, user = project_for(request, slug), person(request)
    if conversation_id := optional_uuid(request, "conversation"):
        conversation = conversation_for(project, user, conversation_id)
        opt_out_conversation(conversation=conversation, opted_out="opted_out" in request.POST)
    return HttpResponse(status=204)


@login_required
@require_POST
def branch(request: HttpRequest, slug: str, conversation_id: UUID) -> HttpResponse:
    """Go to another question or answer: the turns from there on, which take the place of those shown."""
    project, user = project_for(request, slug), person(request)
    conversation = conversation_for(project, user, conversation_id)
    node = as_uuid(request.POST.get("node", ""), "node")
    show_branch(conversation=conversation, node=node, stays=bool(request.POST.get("stay")))
    turns = turns_of(conversation, user, since=node)
    return render(request, "feedback/_turns.html", {"project": project, "turns": turns})


def _list(request: HttpRequest, project: Project, *, here: UUID | None, count: int = AT_ONCE) -> HttpResponse:
    query = request.GET.get("q") or request.POST.get("q") or ""
    context = {
        "project": project,
        "conversation": Conversation(pk=here) if here else None,
        "history": history_of(project, person(request), query=query, count=count),
    }
    return render(request, "feedback/_conversations.html", context)
