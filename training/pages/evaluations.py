"""Evaluations: the verdict with its reason, its numbers, and every battle behind them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.forms import person
from feedback.markdown import render_markdown
from inference.models import Completion, Prompt
from inference.services.versions import current
from projects.access import may, project_for
from projects.errors import NotFound
from projects.models import Membership
from projects.services import Actor
from training.models import Evaluation
from training.pages.plots import interval_of
from training.services.approval import may_approve
from training.services.votes import collect_votes

PAGE = 10


@dataclass
class Battle:
    """One gate prompt: both answers, and the candidate's scores (1 won, 0.5 tie, 0 lost)."""

    prompt: Prompt
    candidate: SafeString | None
    champion: SafeString | None
    scores: list[float] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return outcome_of(self.scores)


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
        votes = collect_votes(found).scores
        wanted = request.GET.get("show", "")
        ids = sorted(found.prompt_ids, key=lambda id_: (id_ not in votes, id_))
        if wanted in ("candidate", "champion", "tie"):
            ids = [id_ for id_ in ids if outcome_of(votes.get(id_, [])) == wanted]
        page = Paginator(ids, PAGE).get_page(request.GET.get("page"))
        context |= {"page": page, "show": wanted, "judged": len(votes)}
        context["battles"] = battles_of(found, list(page.object_list), votes)
    return render(request, "training/evaluation.html", context)


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


def battles_of(evaluation: Evaluation, ids: list[str], votes: dict[str, list[float]]) -> list[Battle]:
    """The battles of these prompts, in three queries."""
    prompts = Prompt.objects.in_bulk([UUID(id_) for id_ in ids])
    texts: dict[tuple[UUID, UUID | None], str] = defaultdict(str)
    rows = (
        Completion.objects.judgeable()
        .filter(prompt_id__in=prompts, version_id__in=[evaluation.candidate_id, evaluation.champion_id])
        .order_by("id")
    )
    for row in rows:
        texts[row.prompt_id, row.version_id] = row.text
    battles = []
    for id_ in ids:
        prompt = prompts.get(UUID(id_))
        if prompt is None:
            continue  # erased since
        candidate, champion = (
            render_markdown(texts[prompt.pk, version_id]) if (prompt.pk, version_id) in texts else None
            for version_id in (evaluation.candidate_id, evaluation.champion_id)
        )
        battles.append(Battle(prompt, candidate, champion, votes.get(id_, [])))
    return battles


def outcome_of(scores: list[float]) -> str:
    """Who won by the mean of the scores; empty without a vote."""
    if not scores:
        return ""
    mean = sum(scores) / len(scores)
    return "candidate" if mean > 0.5 else "champion" if mean < 0.5 else "tie"
