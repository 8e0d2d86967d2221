"""Datasets: those there are, and the desk where one is composed, looked at, and built."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from itertools import islice
from typing import Any

import pyarrow.parquet as pq
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import person
from inference.models import Version
from projects.access import may, project_for
from projects.bodies import read_time
from projects.errors import Invalid, NotFound, Problem
from projects.models import Membership, Project
from projects.services import Actor
from projects.threaded import takes_long
from training.models import Compilation, Dataset
from training.pages.histogram import length_histogram
from training.services.compilations import is_large, request_compilation
from training.services.compiler import Preview, compile_dataset, preview_dataset
from training.services.data.shards import shard_paths
from training.services.filters import DatasetFilters
from training.tasks import ring, tick_compilations

PAGE = 25
EXAMPLES = 6
# Fields of the form, by how they are read.
_LISTS = ("kinds", "sources", "texts")
_NAMES = ("aspects", "versions", "raters", "not_raters", "tags")
_NUMBERS = ("min_weight", "rating_gap")
_COUNTS = ("per_rater_cap", "per_prompt_cap")
_CHOICES = ("rankings", "gate_overlap")
_FLAGS = ("good_answers", "unpair")
_NOT_SAID = ("csrfmiddlewaretoken", "act", "cutoff")
# What the form leaves out for formats that read no judgement.
_UNLABELLED = {
    "prompts": ("since", "tags", "gate_overlap"),
    "text": ("since", "tags", "gate_overlap", "texts"),
}


@dataclass(frozen=True)
class Side:
    """One text of an example row."""

    name: str
    text: str


@login_required
@never_cache
@require_GET
def datasets(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    return render(request, "training/datasets.html", _desk(request, project))


@takes_long("POST")
@login_required
@never_cache
@require_POST
def compose_dataset(request: HttpRequest, slug: str) -> HttpResponse:
    """Preview what the form says, or build it as it was previewed."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    context: dict[str, Any] = {"project": project, "chosen_format": request.POST.get("format")}
    try:
        wanted = _wanted(request.POST)
        if is_large(project):
            return _hand_over(request, project, wanted)
        if request.POST.get("act") == "build":
            dataset = compile_dataset(project=project, actor=Actor(user=person(request)), **wanted)
            messages.success(
                request,
                gettext("Dataset %(n)d is there: %(rows)d rows.")
                % {"n": dataset.number, "rows": dataset.rows},
            )
            return redirected(request, "dataset", slug=slug, number=dataset.number)
        context |= shown(preview_dataset(project=project, **wanted))
        context["said"] = _said(request.POST)
    except Problem as problem:
        context["refusal"] = problem.message
    if request.headers.get("HX-Request") == "true":
        return render(request, "training/_dataset_preview.html", context)
    return render(request, "training/datasets.html", {**_desk(request, project), **context})


@login_required
@never_cache
@require_GET
def dataset(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """One dataset: numbers for every member, rows for managers (they hold the texts of others)."""
    project = project_for(request, slug)
    found = Dataset.objects.filter(project=project, number=number).first()
    if found is None:
        raise NotFound(gettext("There is no such dataset in this project."))
    is_manager = may(request.user, project, Membership.Role.MANAGER)
    context = {
        "project": project,
        "dataset": found,
        "is_manager": is_manager,
        "runs": found.runs.select_related("version"),
        "changed": _changed(found.filters),
        "histogram": length_histogram(found.manifest.get("lengths")),
        "summary": found.manifest,
        "examples": [_sides(row) for row in _first_rows(found)] if is_manager else [],
    }
    return render(request, "training/dataset.html", context)


def _desk(request: HttpRequest, project: Project) -> dict[str, Any]:
    """What the list and the form need."""
    rows = Dataset.objects.filter(project=project)
    is_manager = may(request.user, project, Membership.Role.MANAGER)
    context: dict[str, Any] = {
        "project": project,
        "page": Paginator(rows, PAGE).get_page(request.GET.get("page")),
        "is_manager": is_manager,
    }
    if is_manager:
        versions = Version.objects.filter(project=project).exclude(kind=Version.Kind.REWARD)
        context |= {
            "formats": Dataset.Format.choices,
            "defaults": DatasetFilters(),
            "versions": versions[:50],
        }
    return context


def _hand_over(request: HttpRequest, project: Project, wanted: dict[str, Any]) -> HttpResponse:
    """To a worker: the page shows how far it is."""
    is_build = request.POST.get("act") == "build"
    compilation = request_compilation(
        project=project,
        kind=Compilation.Kind.BUILD if is_build else Compilation.Kind.PREVIEW,
        actor=Actor(user=person(request)),
        form=_said(request.POST),
        **wanted,
    )
    ring(tick_compilations)
    if request.headers.get("HX-Request") == "true":
        return render(request, "training/_compilation.html", {"project": project, "compilation": compilation})
    return redirected(request, "compilation", slug=project.slug, compilation_id=compilation.pk)


def _said(posted: QueryDict) -> list[tuple[str, list[str]]]:
    """The build button carries what was previewed, whatever the form says by then."""
    return [
        (name, [str(value) for value in values]) for name, values in posted.lists() if name not in _NOT_SAID
    ]


def _wanted(posted: QueryDict) -> dict[str, Any]:
    """Format, filters and cut-off as the form says them. Raises Invalid naming what cannot be read."""
    format_ = posted.get("format", Dataset.Format.PREFERENCE)
    filters = _filters(posted)
    if format_ in _UNLABELLED:
        filters = {name: value for name, value in filters.items() if name in _UNLABELLED[format_]}
    cutoff = posted.get("cutoff", "")
    try:
        return {"format": format_, "filters": filters, "cutoff": read_time(cutoff) if cutoff else None}
    except ValueError as error:
        raise Invalid(gettext("The cut-off is no time."), param="cutoff") from error


def _filters(posted: QueryDict) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    for name in _LISTS:
        if f"has_{name}" in posted:
            filters[name] = posted.getlist(name)
    for name in _NAMES:
        parts = [part.strip() for value in posted.getlist(name) for part in value.split(",")]
        filters[name] = [part for part in parts if part]
    for name in _NUMBERS:
        if posted.get(name):
            filters[name] = _number(posted, name)
    for name in _COUNTS:
        if posted.get(name):
            number = _number(posted, name)
            if number != int(number):
                raise Invalid(gettext("%s must be a whole number.") % name, param=name)
            filters[name] = int(number)
    for name in _CHOICES:
        if posted.get(name):
            filters[name] = posted[name]
    for name in _FLAGS:
        filters[name] = posted.get(name) == "yes"
    if since := posted.get("since", ""):
        filters["since"] = _midnight(since).isoformat()
    if posted.get("replay"):
        filters["replay_share"] = _number(posted, "replay") / 100
    return filters


def _number(posted: QueryDict, name: str) -> float:
    try:
        return float(posted.get(name, ""))
    except ValueError as error:
        raise Invalid(gettext("%s must be a number.") % name, param=name) from error


def _midnight(text: str) -> datetime:
    """The beginning of a day, in the time zone of the pages."""
    try:
        day = parse_date(text)
    except ValueError:
        day = None
    if day is None:
        raise Invalid(gettext("Write the day as 2026-01-31."), param="since")
    return timezone.make_aware(datetime.combine(day, time.min))


def shown(preview: Preview) -> dict[str, Any]:
    return {
        "preview": preview,
        "histogram": length_histogram(preview.lengths),
        "summary": {
            "balance": preview.balance,
            "gate_overlap": preview.gate_overlap,
            "counts": preview.counts,
        },
        "examples": [_sides(row) for row in preview.examples],
    }


def _sides(row: dict[str, Any]) -> dict[str, Any]:
    """An example as its texts in order, and what is said about them."""
    sides = []
    for name in ("prompt", "chosen", "rejected", "completion"):
        if name in row:
            text = "\n\n".join(message["content"] for message in row[name])
            sides.append(Side(name, text))
    if "text" in row:
        sides.append(Side("text", row["text"]))
    return {
        "sides": sides,
        "margin": row.get("margin"),
        "label": row.get("label"),
        "ids": row["feedback_ids"],
    }


def _first_rows(found: Dataset) -> list[dict[str, Any]]:
    """The first rows as they stand in the files; none of an erased dataset."""
    for path in shard_paths(found.folder, "train"):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=EXAMPLES):
                return list(islice(batch.to_pylist(), EXAMPLES))
    return []


def _changed(filters: dict[str, Any]) -> dict[str, Any]:
    """Filters that are not the default ones."""
    default = DatasetFilters().to_json()
    return {name: value for name, value in filters.items() if value != default.get(name)}


def redirected(request: HttpRequest, name: str, **kwargs: Any) -> HttpResponse:
    """A redirect that htmx follows as a page, not into the part that it swaps."""
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(status=200, headers={"HX-Redirect": reverse(name, kwargs=kwargs)})
    return HttpResponseRedirect(reverse(name, kwargs=kwargs))
