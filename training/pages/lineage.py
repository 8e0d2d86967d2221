"""The lineage page: from a label to what it taught, and from what serves to the labels behind it."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.models import Preference
from projects.access import may, project_for
from projects.models import Membership
from projects.numbers import read_whole
from training.pages.flow import flow_of, kind_of, standing_of, what_it_says
from training.services.lineage import STARTS, Lineage, judgements_behind, lineage_from

PAGE = 50


@login_required
@never_cache
@require_GET
def find_lineage(request: HttpRequest, slug: str) -> HttpResponse:
    """From what somebody pasted: the id of a judgement, `v7`, or `dataset 3`."""
    project = project_for(request, slug)
    start, name = _read(request.GET.get("of", ""))
    if not start:
        return render(request, "training/lineage.html", {"project": project, "asked": name})
    return HttpResponseRedirect(reverse("lineage", kwargs={"slug": slug, "start": start, "name": name}))


@login_required
@never_cache
@require_GET
def lineage(request: HttpRequest, slug: str, start: str, name: str) -> HttpResponse:
    """The picture for every member; who judged what for managers alone."""
    project = project_for(request, slug)
    found = lineage_from(project=project, start=start, name=name)
    is_manager = may(request.user, project, Membership.Role.MANAGER)
    context = {
        "project": project,
        "lineage": found,
        "title": _title(found, start, name),
        "columns": flow_of(project, found),
        "is_manager": is_manager,
    }
    if is_manager and found.judgement is None and found.datasets:
        context |= _behind(request, found)
    return render(request, "training/lineage.html", context)


def _behind(request: HttpRequest, found: Lineage) -> dict[str, object]:
    """A page of the judgements behind the dataset that is asked for, or the newest."""
    wanted = request.GET.get("dataset", "")
    dataset = next((one for one in found.datasets if str(one.number) == wanted), found.datasets[0])
    place = read_whole(request.GET.get("from", ""), digits=9) or 0
    rows, total = judgements_behind(dataset, start=place, count=PAGE)
    return {
        "behind": dataset,
        "total": total,
        "place": place,
        "before": max(0, place - PAGE) if place else None,
        "following": place + PAGE if place + PAGE < total else None,
        "judgements": [
            {
                "row": row,
                "kind": kind_of(row),
                "says": what_it_says(row),
                "standing": standing_of(row),
                "by": row.rater.get_username() if row.rater else row.subject or row.judge,
            }
            for row in rows
        ],
    }


def _title(found: Lineage, start: str, name: str) -> str:
    if found.judgement is not None:
        word = gettext("a comparison") if isinstance(found.judgement, Preference) else gettext("a judgement")
        return gettext("What became of %s") % word
    words = {
        "dataset": gettext("dataset"),
        "run": gettext("run"),
        "version": gettext("version"),
        "evaluation": gettext("evaluation"),
        "deployment": gettext("deployment"),
    }
    return gettext("Lineage of %(what)s %(name)s") % {"what": words[start], "name": name}


def _read(text: str) -> tuple[str, str]:
    """What is meant, as start and name; ("", the words) for what cannot be read."""
    words = text.strip().lower().replace("/", " ").split()
    if len(words) == 2 and words[0] in STARTS:
        return words[0], words[1]
    if len(words) == 1:
        if words[0].startswith("v") and words[0][1:].isdecimal():
            return "version", words[0]
        try:
            return "feedback", str(UUID(words[0]))
        except ValueError:
            return "", words[0]
    return "", text.strip()
