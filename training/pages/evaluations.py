"""Evaluations: the verdict with its reason, its numbers, and every battle behind them."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.forms import person
from feedback.markdown import render_markdown
from inference.models import Completion
from inference.services.versions import current
from projects.access import may, project_for
from projects.errors import NotFound
from projects.models import Membership
from projects.services import Actor
from training.models import Evaluation
from training.pages.plots import interval_of
from training.services.approval import may_approve
from training.services.battles import FILTERS, Battle, page_of

PAGE = 10


@login_required
@never_cache
@require_GET
def evaluation(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """The verdict for everybody; the answers by version only for reviewers, since raters judge them blind."""
    project = project_for(request, slug)
    found = (
        Evaluation.objects.select_related("project", "candidate__project", "champion__project")
        .filter(project=project, number=number)
        .first()
    )
    if found is None:
        raise NotFound(gettext("There is no such evaluation in this project."))
    context: dict[str, Any] = {
        "project": project,
        "evaluation": found,
        "interval": interval_of(found.numbers),
        "is_manager": may(request.user, project, Membership.Role.MANAGER),
        "answers_ready": answered(found),
        "may_promote": found.verdict == Evaluation.Verdict.PROMOTE
        and found.champion_id == current(project).champion_id
        and may_approve(project, Actor(user=person(request))),
    }
    if may(request.user, project, Membership.Role.REVIEWER):
        show = request.GET.get("show", "")
        page = page_of(found, show=show, after=request.GET.get("after", ""), limit=PAGE)
        context |= {"page": page, "show": show, "filters": ["", *FILTERS]}
        context["battles"] = [_drawn(found, battle) for battle in page.battles]
    return render(request, "training/evaluation.html", context)


def _drawn(evaluation: Evaluation, battle: Battle) -> dict[str, Any]:
    """A battle with its answers as HTML."""
    sides = [
        {"name": name, "version": version, "side": side, "html": render_markdown(side.text) if side else ""}
        for name, version, side in (
            ("candidate", evaluation.candidate, battle.candidate),
            ("champion", evaluation.champion, battle.champion),
        )
    ]
    return {"row": battle, "sides": sides}


def answered(evaluation: Evaluation) -> dict[str, int]:
    """How many gate prompts each side has answered."""
    counts = {}
    for side, version_id in (
        ("candidate", evaluation.candidate_id),
        ("champion", evaluation.champion_id),
    ):
        rows = Completion.objects.judgeable().filter(
            version_id=version_id, prompt_id__in=evaluation.prompt_ids
        )
        counts[side] = rows.values("prompt_id").distinct().count()
    return counts
