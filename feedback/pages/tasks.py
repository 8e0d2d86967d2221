"""Tasks, for managers: what is asked, how far it is, what to do about one; and gold, its answer known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from feedback.forms import as_uuid, person
from feedback.models import Assignment, SampleRequest, Task
from feedback.services import desk
from feedback.services.samples import cancel_samples, request_samples
from feedback.services.tasks import MAX_OVERLAP
from feedback.worksheet import Worksheet
from inference.models import Version
from projects.access import project_for
from projects.errors import Invalid, NotFound, Problem
from projects.models import Membership, Project
from projects.numbers import read_whole
from projects.pages import onward
from projects.services import Actor

PAGE = 50
REQUESTS, VERSIONS = 5, 12  # the newest
COUNTED = 10_000  # as far as the heads of the list count
STATES: dict[str, Q] = {
    "waiting": Q(is_open=True, held=0, done=0, gold__isnull=True),
    "running": Q(is_open=True, gold__isnull=True) & (Q(held__gt=0) | Q(done__gt=0)),
    "complete": Q(is_open=False, done__gt=0, gold__isnull=True),
    "withdrawn": Q(is_open=False, done=0),
    "disputed": Q(outcome=Task.Outcome.DISPUTED),
    "gold": Q(gold__isnull=False),
}


@login_required
@never_cache
@require_GET
def tasks(request: HttpRequest, slug: str) -> HttpResponse:
    """Newest first, by `?kind=`, `?source=` and `?state=`; `?before=` is the id of the last one shown."""
    project = _project(request, slug)
    chosen = {name: request.GET.get(name, "") for name in ("kind", "source", "state")}
    found = _found(project, chosen, request.GET.get("before", ""))
    rows = list(found.select_related("prompt")[: PAGE + 1])
    shown = rows[:PAGE]
    context = {
        "project": project,
        "tasks": shown,
        "gold": desk.gold_results([task for task in shown if task.gold is not None]),
        "chosen": chosen,
        "kinds": Task.Kind.choices,
        "sources": Task.Source.choices,
        "states": state_labels(),
        "progress": desk.progress_of(project, COUNTED) if not request.GET.get("before") else None,
        "counted": COUNTED,
        "next": shown[-1].pk if len(rows) > PAGE else None,
        "most": desk.MOST_AT_ONCE,
        "most_raters": MAX_OVERLAP,
        "requests": SampleRequest.objects.filter(project=project)[:REQUESTS],
        "versions": project.versions.select_related("project").filter(
            status=Version.Status.AVAILABLE, kind__in=(Version.Kind.BASE, Version.Kind.ADAPTER)
        )[:VERSIONS],
    }
    return render(request, "feedback/tasks.html", context)


@login_required
@require_POST
def make(request: HttpRequest, slug: str) -> HttpResponse:
    """A batch from prompts with answers, a gold question, or answers of versions that become comparisons."""
    project = _project(request, slug)
    maker = MAKERS.get(request.POST.get("what", ""))
    if maker is None:
        raise Invalid(gettext("There is no such action."), param="what")
    try:
        messages.success(request, maker(request, project, Actor(user=person(request))))
    except Problem as problem:
        if request.headers.get("HX-Request") == "true":  # its form keeps what was typed
            raise
        messages.error(request, problem.message)
    return onward(request, redirect("tasks", slug=project.slug))


def _batch(request: HttpRequest, project: Project, actor: Actor) -> str:
    made = desk.make_tasks(
        project=project,
        kind=request.POST.get("kind", ""),
        count=_number(request, "count"),
        tag=request.POST.get("tag", "").strip(),
        overlap=_optional_number(request, "overlap"),
        actor=actor,
    )
    said = ngettext("%(n)d task waits for raters now.", "%(n)d tasks wait for raters now.", made)
    return said % {"n": made}


def _written_gold(request: HttpRequest, project: Project, actor: Actor) -> str:
    texts = {name: request.POST.get(name, "") for name in ("question", "best", "worse")}
    desk.write_gold(project=project, actor=actor, **texts)
    return gettext("The gold question is there. Raters meet it unmarked.")


def _samples(request: HttpRequest, project: Project, actor: Actor) -> str:
    numbers = [_whole(one, "version") for one in request.POST.getlist("version")]
    tag = request.POST.get("tag", "").strip()
    asked = request_samples(
        project=project,
        versions=list(project.versions.select_related("project").filter(number__in=numbers)),
        samples=_number(request, "samples"),
        tags=[tag] if tag else [],
        limit=_number(request, "count"),
        overlap=_optional_number(request, "overlap"),
        actor=actor,
    )
    said = ngettext(
        "%(n)d prompt is being answered; comparisons come as answers do.",
        "%(n)d prompts are being answered; comparisons come as answers do.",
        asked.prompts,
    )
    return said % {"n": asked.prompts}


def _no_more_samples(request: HttpRequest, project: Project, actor: Actor) -> str:
    wanted = as_uuid(request.POST.get("request", ""), "request")
    asked = SampleRequest.objects.filter(project=project, pk=wanted).first()
    if asked is None:
        raise NotFound(gettext("There is no such request in this project."))
    cancel_samples(request=asked, actor=actor)
    return gettext("No more answers are made. Comparisons that are there stay.")


MAKERS: dict[str, Callable[[HttpRequest, Project, Actor], str]] = {
    "batch": _batch,
    "gold": _written_gold,
    "samples": _samples,
    "cancel": _no_more_samples,
}


@login_required
@never_cache
@require_GET
def task(request: HttpRequest, slug: str, task_id: UUID) -> HttpResponse:
    """One task: the question, the answers, who has answered, and what is known."""
    project = _project(request, slug)
    found = desk.task_for(project=project, task_id=task_id)
    answers = list(found.completions.order_by("pk"))
    # As a rater sees it, in an order of its own.
    sheet = Worksheet.of(Assignment(task=found, project=project, shown=[str(one.pk) for one in answers]))
    context = {
        "project": project,
        "task": found,
        "sheet": sheet,
        "answers": [
            {"sheet": one, "answer": answer, "is_best": str(answer.pk) in (found.gold or {}).get("best", [])}
            for one, answer in zip(sheet.sheets, answers, strict=True)
        ],
        "assignments": found.assignments.select_related("rater").order_by("-id")[:200],
        "result": desk.gold_results([found]).get(found.pk) if found.gold is not None else None,
        "known": found.gold or {},
        "contains": "\n".join((found.gold or {}).get("contains", [])),
    }
    return render(request, "feedback/task.html", context)


@login_required
@require_POST
def act_on_task(request: HttpRequest, slug: str, task_id: UUID) -> HttpResponse:
    """Withdraw it, ask one more rater, free its places, say its known answer, or that there is none."""
    project = _project(request, slug)
    found = desk.task_for(project=project, task_id=task_id)
    actor = Actor(user=person(request))
    action = request.POST.get("action", "")
    try:
        if action == "withdraw":
            desk.withdraw_task(task=found, actor=actor)
            messages.success(request, gettext("Withdrawn: nobody is asked any more. What was said stays."))
        elif action == "another":
            desk.ask_another(task=found, actor=actor)
            messages.success(request, gettext("One more rater is asked, before the rest."))
        elif action == "release":
            count = desk.release_places(task=found, actor=actor)
            said = ngettext("%(n)d place is free again.", "%(n)d places are free again.", count)
            messages.success(request, said % {"n": count})
        elif action == "gold":
            desk.set_gold(task=found, gold=_gold(request, found), actor=actor)
            messages.success(request, gettext("Its answer is known now. Raters meet it unmarked."))
        elif action == "ordinary":
            desk.clear_gold(task=found, actor=actor)
            messages.success(
                request, gettext("It is an ordinary question now: what raters said of it is a label.")
            )
        else:
            raise Invalid(gettext("There is no such action."), param="action")
    except Problem as problem:
        messages.error(request, problem.message)
    return redirect("task", slug=project.slug, task_id=task_id)


def state_labels() -> list[tuple[str, str]]:
    return [
        ("waiting", gettext("waiting")),
        ("running", gettext("under way")),
        ("complete", gettext("complete")),
        ("disputed", gettext("waits for a reviewer")),
        ("withdrawn", gettext("withdrawn")),
        ("gold", gettext("gold")),
    ]


def _found(project: Project, chosen: dict[str, str], before: str) -> QuerySet[Task]:
    """Raises Invalid for a filter that there is not."""
    found = Task.objects.filter(project=project).order_by("-id")
    for name, known in (("kind", Task.Kind.values), ("source", Task.Source.values)):
        if chosen[name]:
            if chosen[name] not in known:
                raise Invalid(gettext("There is no such filter."), param=name)
            found = found.filter(**{name: chosen[name]})
    if chosen["state"]:
        if chosen["state"] not in STATES:
            raise Invalid(gettext("There is no such filter."), param="state")
        found = found.filter(STATES[chosen["state"]])
    return found.filter(pk__lt=as_uuid(before, "before")) if before else found


def _gold(request: HttpRequest, task: Task) -> dict[str, Any]:
    """The known answer out of the form's fields; services/gold.py checks it."""
    if task.kind == Task.Kind.COMPARE:
        if "all_bad" in request.POST:
            return {"all_bad": True}
        return {"best": request.POST.getlist("best")}
    if task.kind == Task.Kind.CORRECT:
        lines = request.POST.get("contains", "").splitlines()
        return {"contains": [line.strip() for line in lines if line.strip()]}
    values = {
        aspect.key: [_whole(value, aspect.key) for value in request.POST.getlist(f"value-{aspect.key}")]
        for aspect in task.project.rating_form.aspects
    }
    return {"ratings": {key: chosen for key, chosen in values.items() if chosen}}


def _optional_number(request: HttpRequest, name: str) -> int | None:
    return _number(request, name) if request.POST.get(name) else None


def _number(request: HttpRequest, name: str) -> int:
    return _whole(request.POST.get(name, ""), name)


def _whole(text: str, name: str) -> int:
    """Raises Invalid; whether the number makes sense is the services' to say."""
    found = read_whole(text.removeprefix("-"), digits=7)
    if found is None:
        raise Invalid(gettext("%(name)s must be a number.") % {"name": name}, param=name)
    return -found if text.startswith("-") else found


def _project(request: HttpRequest, slug: str) -> Project:
    return project_for(request, slug, Membership.Role.MANAGER)
