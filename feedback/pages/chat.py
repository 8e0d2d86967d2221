"""Chat: talk with what serves, and say on the spot what is good, what is bad and what would be better."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from feedback.errors import AlreadyJudged, NotStanding
from feedback.forms import optional_uuid, person
from feedback.history import history_of
from feedback.markdown import render_markdown
from feedback.models import Correction, Feedback, Flag, Preference, Rating
from feedback.services.answers import RANKS
from feedback.services.conversations import ask as record_question
from feedback.services.conversations import set_head
from feedback.services.judge import Judge
from feedback.services.record import (
    record_correction,
    record_flag,
    record_preference,
    record_rating,
    retract_feedback,
)
from feedback.threads import (
    completion_for,
    conversation_for,
    question_for,
    show,
    turn_of,
    turns_of,
)
from inference.models import Completion, Prompt
from inference.relay import start_answer
from projects.access import project_for
from projects.errors import Conflict, Invalid, NotFound, Problem
from projects.models import Project
from projects.offload import in_database


@login_required
@never_cache
@require_GET
def chat(request: HttpRequest, slug: str, conversation_id: UUID | None = None) -> HttpResponse:
    project, user = project_for(request, slug), person(request)
    conversation = conversation_for(project, user, conversation_id) if conversation_id else None
    context = {
        "project": project,
        "conversation": conversation,
        "history": history_of(project, user),
        "turns": turns_of(conversation, user) if conversation else [],
    }
    return render(request, "feedback/chat.html", context)


@login_required
@never_cache
@require_GET
def answer(request: HttpRequest, slug: str, completion_id: UUID) -> HttpResponse:
    """One answer as it stands: what a page puts in place of the stream when that is done."""
    project = project_for(request, slug)
    return _answer(request, project, completion_for(project, person(request), completion_id))


@login_required
@never_cache
@require_GET
def question(request: HttpRequest, slug: str, prompt_id: UUID) -> HttpResponse:
    """One turn as it stands; with `edit` the question is in a field, to ask another in its place."""
    prompt = question_for(project_for(request, slug), person(request), prompt_id)
    return _turn(request, prompt, editing="edit" in request.GET)


@login_required
@require_POST
def rate(request: HttpRequest, slug: str, completion_id: UUID) -> HttpResponse:
    """A thumb; or the same again with reasons and comment, superseding the first."""
    project, user = project_for(request, slug), person(request)
    completion = completion_for(project, user, completion_id)
    value = {"1": 1, "-1": -1}.get(request.POST.get("value", ""))
    if value is None:
        raise Invalid(gettext("A thumb is up or down."), param="value")
    with suppress(AlreadyJudged, NotStanding):  # said in another tab meanwhile: show what stands
        record_rating(
            project=project,
            judge=Judge(user=user),
            completion_id=completion.pk,
            value=value,
            reasons=request.POST.getlist("reasons"),
            comment=request.POST.get("comment", ""),
            source=Feedback.Source.UI,
            id=optional_uuid(request, "id"),
            supersedes=optional_uuid(request, "supersedes"),
        )
    return _answer(request, project, completion, just_rated="comment" not in request.POST)


@login_required
@require_http_methods(["GET", "POST"])
def correct(request: HttpRequest, slug: str, completion_id: UUID) -> HttpResponse:
    """The editor in place of the answer; posted, the better text."""
    project, user = project_for(request, slug), person(request)
    completion = completion_for(project, user, completion_id)
    shown = show(completion, user)
    if request.method == "GET":
        draft = shown.correction.text if shown.correction else completion.text
        context = {"project": project, "shown": shown, "editing": True, "draft": draft}
        return render(request, "feedback/_answer.html", context)
    try:
        record_correction(
            project=project,
            judge=Judge(user=user),
            completion_id=completion.pk,
            text=request.POST.get("text", ""),
            source=Feedback.Source.UI,
            id=optional_uuid(request, "id"),
            supersedes=optional_uuid(request, "supersedes"),
        )
    except (AlreadyJudged, NotStanding) as standing:
        raise Conflict(gettext("You changed this in another tab. Save again to replace that.")) from standing
    return _answer(request, project, completion)


@login_required
@require_POST
def flag(request: HttpRequest, slug: str, completion_id: UUID) -> HttpResponse:
    """Somebody should look at this answer. It teaches nothing by itself."""
    project, user = project_for(request, slug), person(request)
    completion = completion_for(project, user, completion_id)
    with suppress(AlreadyJudged):  # said in another tab meanwhile: show what stands
        record_flag(
            project=project,
            judge=Judge(user=user),
            completion_id=completion.pk,
            reason=request.POST.get("reason", ""),
            source=Feedback.Source.UI,
            id=optional_uuid(request, "id"),
        )
    completion.refresh_from_db(fields=["quarantined"])  # it may have been set aside
    return _answer(request, project, completion)


@login_required
@require_POST
def prefer(request: HttpRequest, slug: str, prompt_id: UUID) -> HttpResponse:
    """Which of the two answers in the chat is better."""
    project, user = project_for(request, slug), person(request)
    prompt = question_for(project, user, prompt_id)
    verdict = request.POST.get("verdict", "")
    if verdict not in RANKS:
        raise Invalid(gettext("Choose left, right, same or both bad."), param="verdict")
    candidates = [optional_uuid(request, side) for side in ("left", "right")]
    ranks = RANKS[verdict]
    with suppress(AlreadyJudged, NotStanding):  # said in another tab meanwhile: show what stands
        record_preference(
            project=project,
            judge=Judge(user=user),
            candidates=[one for one in candidates if one],
            ranks=ranks,
            all_bad=ranks is None,
            source=Feedback.Source.UI,
            id=optional_uuid(request, "id"),
            supersedes=optional_uuid(request, "supersedes"),
        )
    return _turn(request, prompt)


@login_required
@require_POST
def retract(request: HttpRequest, slug: str, feedback_id: UUID) -> HttpResponse:
    """Take a judgement back; the answer, or the turn of a preference, as it stands then."""
    project, user = project_for(request, slug), person(request)
    row, _ = retract_feedback(project=project, judge=Judge(user=user), feedback_id=feedback_id)
    if isinstance(row, Rating | Correction | Flag):
        return _answer(request, project, completion_for(project, user, row.completion_id))
    if isinstance(row, Preference):
        return _turn(request, row.prompt)
    raise NotFound()


@login_required
@require_POST
async def ask(request: HttpRequest, slug: str) -> HttpResponse:
    """Record the question and start its answer. When no engine takes it, it can be asked again.

    `after` is the answer that it follows; with `instead_of` it is a branch beside that question.
    """
    prompt = await in_database(_record_question, request, slug)
    refusal = ""
    try:
        await start_answer(project=prompt.project, prompt=prompt, sticky=str(prompt.conversation_id))
    except Problem as problem:
        refusal = problem.message
    return await in_database(_asked, request, prompt, refusal)


@login_required
@require_POST
async def again(request: HttpRequest, slug: str, prompt_id: UUID) -> HttpResponse:
    """Another answer to the same question, shown beside the last one, for a comparison.

    The path ends there from now on; when no engine takes it, nothing has changed.
    """
    prompt = await in_database(_find_question, request, slug, prompt_id)
    await start_answer(project=prompt.project, prompt=prompt, sticky=str(prompt.conversation_id))
    return await in_database(_compared, request, prompt)


@login_required
@never_cache
@require_GET
def guidelines(request: HttpRequest, slug: str) -> HttpResponse:
    """What raters are asked to look for."""
    project = project_for(request, slug)
    context = {"project": project, "guidelines": render_markdown(project.guidelines)}
    return render(request, "feedback/_guidelines.html", context)


@login_required
@never_cache
@require_GET
def engine_state(request: HttpRequest, slug: str) -> HttpResponse:
    """The banner, or nothing."""
    project_for(request, slug)
    return render(request, "feedback/_engine_state.html")


# --- halves of the asynchronous views --------------------------------------------------------------------
def _record_question(request: HttpRequest, slug: str) -> Prompt:
    project, user = project_for(request, slug), person(request)
    conversation_id, after = optional_uuid(request, "conversation"), optional_uuid(request, "after")
    instead_of = optional_uuid(request, "instead_of")
    beside = question_for(project, user, instead_of) if instead_of else None
    if beside is not None:
        conversation = beside.conversation
    else:
        conversation = conversation_for(project, user, conversation_id) if conversation_id else None
    followed = completion_for(project, user, after) if after and conversation else None
    if followed is not None and followed.prompt.conversation != conversation:
        raise Invalid(gettext("That answer is in another conversation."), param="after")
    return record_question(
        project=project,
        owner=user,
        text=request.POST.get("text", ""),
        conversation=conversation,
        after=followed,
        instead_of=beside,
        opted_out="opted_out" in request.POST,
    )


def _find_question(request: HttpRequest, slug: str, prompt_id: UUID) -> Prompt:
    return question_for(project_for(request, slug), person(request), prompt_id)


def _compared(request: HttpRequest, prompt: Prompt) -> HttpResponse:
    assert prompt.conversation is not None  # noqa: S101 - question_for looks in conversations
    set_head(conversation=prompt.conversation, node=prompt.pk)
    return _turn(request, prompt)


def _asked(request: HttpRequest, prompt: Prompt, refusal: str) -> HttpResponse:
    """The new turn, with the conversation's id for the next question and the sidebar as it is now."""
    project, user = prompt.project, person(request)
    context = {
        "project": project,
        "turn": turn_of(prompt, user),
        "refusal": refusal,
        "conversation": prompt.conversation,
        "history": history_of(project, user),
    }
    response = render(request, "feedback/_asked.html", context)
    address = {"slug": project.slug, "conversation_id": prompt.conversation_id}
    response["HX-Push-Url"] = reverse("conversation", kwargs=address)
    return response


# --- partials --------------------------------------------------------------------------------------------
def _answer(request: HttpRequest, project: Project, completion: Completion, **extra: Any) -> HttpResponse:
    shown = show(completion, person(request))
    return render(request, "feedback/_answer.html", {"project": project, "shown": shown, **extra})


def _turn(request: HttpRequest, prompt: Prompt, **extra: Any) -> HttpResponse:
    context = {"project": prompt.project, "turn": turn_of(prompt, person(request))}
    return render(request, "feedback/_turn.html", {**context, **extra})
