"""Blind battle: ask, watch two answers come, vote when you know; then see which versions they were."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import person
from feedback.markdown import render_markdown
from feedback.models import Battle
from feedback.services.battles import (
    battle_for,
    is_broken,
    open_battle,
    past_battles,
    prepare_battle,
    settle_battle,
    undo_vote,
    vote_battle,
)
from inference.generation import Ask, Generation
from inference.models import Completion
from inference.relay import hub
from projects.access import project_for
from projects.errors import Problem
from projects.models import Project
from projects.offload import in_database

logger = logging.getLogger(__name__)
_settling: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks only weakly


@login_required
@never_cache
@require_GET
def start(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    return render(
        request, "feedback/battle.html", {"project": project, "past": past_battles(project, person(request))}
    )


@login_required
@require_POST
async def ask(request: HttpRequest, slug: str) -> HttpResponse:
    """Start both answers. When one cannot be, the other is stopped, and the question is kept to try again."""
    project = await in_database(project_for, request, slug)
    text = request.POST.get("text", "")
    try:
        generations = await _start(await in_database(prepare_battle, project=project, text=text))
    except Problem as problem:
        return await in_database(_refused, request, project, text, problem)
    left, right = (one.choices[0].id for one in generations)
    battle = await in_database(open_battle, project=project, owner=person(request), left=left, right=right)
    task = asyncio.create_task(_settle(battle.pk, generations))
    _settling.add(task)
    task.add_done_callback(_settling.discard)
    return redirect("one_battle", slug=slug, battle_id=battle.pk)


@login_required
@never_cache
@require_GET
def show(request: HttpRequest, slug: str, battle_id: UUID) -> HttpResponse:
    """The page, or its middle for the script when a stream has ended."""
    project = project_for(request, slug)
    settle_battle(battle_for(project, person(request), battle_id).pk)
    return _battle(request, project, battle_id)


@login_required
@require_POST
def vote(request: HttpRequest, slug: str, battle_id: UUID) -> HttpResponse:
    project = project_for(request, slug)
    battle = battle_for(project, person(request), battle_id)
    vote_battle(battle=battle, verdict=request.POST.get("verdict", ""))
    return _answer(request, project, battle_id)


@login_required
@require_POST
def undo(request: HttpRequest, slug: str, battle_id: UUID) -> HttpResponse:
    project = project_for(request, slug)
    undo_vote(battle=battle_for(project, person(request), battle_id))
    return _answer(request, project, battle_id)


async def _start(asks: list[Ask]) -> list[Generation]:
    """Both, left first, so that not even the order of their ids tells a version."""
    found = await asyncio.gather(*(hub().start(one) for one in asks), return_exceptions=True)
    generations = [one for one in found if isinstance(one, Generation)]
    refusals = [one for one in found if isinstance(one, BaseException)]
    if refusals:
        for generation in generations:
            generation.stop()
        raise refusals[0]
    return generations


async def _settle(battle_id: UUID, generations: list[Generation]) -> None:
    """A vote that came early is recorded as soon as both answers have ended, also when the page is gone."""
    await asyncio.wait([one.task for one in generations])
    try:
        await in_database(settle_battle, battle_id)
    except Exception:  # the schedule settles what is left
        logger.exception("the vote of a battle could not be recorded yet")


def _refused(request: HttpRequest, project: Project, text: str, problem: Problem) -> HttpResponse:
    context = {"project": project, "text": text, "refusal": problem.message}
    return render(request, "feedback/battle.html", context, status=problem.status)


def _answer(request: HttpRequest, project: Project, battle_id: UUID) -> HttpResponse:
    if request.headers.get("HX-Request") == "true":
        return _battle(request, project, battle_id)
    return redirect("one_battle", slug=project.slug, battle_id=battle_id)


def _battle(request: HttpRequest, project: Project, battle_id: UUID) -> HttpResponse:
    battle = battle_for(project, person(request), battle_id)
    template = (
        "feedback/_battle.html" if request.headers.get("HX-Request") == "true" else "feedback/battle.html"
    )
    return render(request, template, {"project": project, "battle": battle, **_shown(battle)})


def _shown(battle: Battle) -> dict[str, Any]:
    """What the template shows. Names of versions are in it only when there is a vote."""
    sides = []
    for name, completion in (("left", battle.left), ("right", battle.right)):
        is_running = completion.state == Completion.State.RUNNING
        side = {
            "name": name,
            "id": completion.pk,
            "is_running": is_running,
            "is_whole": completion.state == Completion.State.FINISHED,
            "is_set_aside": completion.quarantined,
            "was_cut": completion.finish_reason == "length",
            "html": "" if is_running else render_markdown(completion.text),
            "is_chosen": battle.verdict in (name, "tie"),
        }
        if battle.verdict:
            side["version"] = completion.version_label
        sides.append(side)
    return {
        "sides": sides,
        "question": battle.left.prompt.question,
        "is_broken": is_broken(battle),
        "is_set_aside": battle.left.quarantined or battle.right.quarantined,
        "is_recorded": battle.preference_id is not None,
        "is_same_version": bool(battle.verdict) and battle.left.version_id == battle.right.version_id,
    }
