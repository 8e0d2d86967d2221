"""What a manager does from a page: start a run, evaluate, decide, promote, roll back, cancel.

Each is one service call. A refusal comes back as its sentence on the page where the button was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext
from django.views.decorators.http import require_POST

from feedback.forms import person
from inference.models import Version
from inference.services.versions import current
from projects.access import project_for
from projects.errors import Invalid, NotFound, Problem
from projects.models import Membership, Project
from projects.numbers import read_whole
from projects.pages import onward
from projects.services import Actor
from projects.threaded import takes_long
from training.models import Compilation, Dataset, Evaluation, Pipeline, Policy, Rollout
from training.services.compilations import begin
from training.services.evaluations import create_evaluation, decide
from training.services.methods import METHODS, ROWS
from training.services.pipelines import PIPELINES, cancel_pipeline
from training.services.policy_changes import policy_of
from training.services.promotion import promote_version, rollback_version
from training.services.rollouts import (
    active_rollout,
    finish_rollout,
    pause_rollout,
    resume_rollout,
    roll_back_rollout,
)
from training.services.runs import cancel_run, find_run, resume_run
from training.tasks import ring, tick_compilations, tick_runs, tick_work

SHARES = {"100": 1.0, "25": 0.25, "5": 0.05, "1": 0.01}
CANARY = "canary"  # in place of a share: it goes up by itself
STEERS: dict[str, Callable[..., object]] = {
    "pause": pause_rollout,
    "resume": resume_rollout,
    "finish": finish_rollout,
    "roll_back": roll_back_rollout,
}
BACK = ("loop", "runs", "versions")  # pages that carry the buttons


def manager_action(act: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A POST by a manager of the project. A Problem is told to the script that sent the form, which keeps
    what was typed; without one it becomes a message on the page that it came from."""

    @takes_long("POST")
    @login_required
    @require_POST
    @wraps(act)
    def view(request: HttpRequest, slug: str, **kwargs: int) -> HttpResponse:
        project = project_for(request, slug, Membership.Role.MANAGER)
        try:
            return onward(request, act(request, project, Actor(user=person(request)), **kwargs))
        except NotFound:
            raise
        except Problem as problem:
            if request.headers.get("HX-Request") == "true":
                raise
            messages.error(request, problem.message)
            return _back(request, project, **kwargs)

    return view


@manager_action
def start_run(request: HttpRequest, project: Project, actor: Actor) -> HttpResponse:
    number = request.POST.get("dataset", "")
    wanted = {
        "method": request.POST.get("method", "dpo"),
        "dataset": dataset_numbered(project, number).number if number else None,
        "config": config_of(request.POST.get("config", "")),
        "reward": None,
        "judged": None,
        "seed": 0,
    }
    run = begin(project=project, kind="run", wanted=wanted, actor=actor)
    if isinstance(run, Compilation):
        return followed(run)
    ring(tick_runs)
    messages.success(request, gettext("Run %(n)d waits for a trainer.") % {"n": run.number})
    return redirect("run", slug=project.slug, number=run.number)


@manager_action
def stop_run(request: HttpRequest, project: Project, actor: Actor, number: int) -> HttpResponse:
    cancel_run(run=find_run(project, number), actor=actor)
    ring(tick_runs)
    messages.success(request, gettext("The run is being cancelled."))
    return redirect("run", slug=project.slug, number=number)


@manager_action
def go_on_with_run(request: HttpRequest, project: Project, actor: Actor, number: int) -> HttpResponse:
    resume_run(run=find_run(project, number), actor=actor)
    ring(tick_runs)
    messages.success(request, gettext("The run waits for a trainer, and goes on from its last checkpoint."))
    return redirect("run", slug=project.slug, number=number)


@manager_action
def begin_pipeline(request: HttpRequest, project: Project, actor: Actor) -> HttpResponse:
    wanted = {
        "name": request.POST.get("name", ""),
        "configs": config_of(request.POST.get("config", "")) or {},
        "filters": {},
    }
    first = begin(project=project, kind="pipeline", wanted=wanted, actor=actor)
    if isinstance(first, Compilation):
        return followed(first)
    assert first.pipeline is not None  # noqa: S101 - it is the first of one
    ring(tick_runs)
    messages.success(request, gettext("Pipeline %(n)d has begun.") % {"n": first.pipeline.number})
    return redirect("runs", slug=project.slug)


@manager_action
def stop_pipeline(request: HttpRequest, project: Project, actor: Actor, number: int) -> HttpResponse:
    pipeline = Pipeline.objects.select_related("project").filter(project=project, number=number).first()
    if pipeline is None:
        raise NotFound()
    cancel_pipeline(pipeline=pipeline, actor=actor)
    ring(tick_runs)
    messages.success(request, pipeline.message)
    return redirect("runs", slug=project.slug)


@manager_action
def evaluate(request: HttpRequest, project: Project, actor: Actor) -> HttpResponse:
    evaluation = create_evaluation(
        project=project, candidate=_version(request, project), sample=True, actor=actor
    )
    ring(tick_work)
    return redirect("evaluation", slug=project.slug, number=evaluation.number)


@manager_action
def decide_evaluation(request: HttpRequest, project: Project, actor: Actor, number: int) -> HttpResponse:
    evaluation = Evaluation.objects.select_related(
        "project", "candidate__project", "champion__project"
    ).filter(project=project, number=number)
    found = evaluation.first()
    if found is None:
        raise NotFound()
    decide(evaluation=found, actor=actor)
    return redirect("evaluation", slug=project.slug, number=number)


@manager_action
def promote(request: HttpRequest, project: Project, actor: Actor) -> HttpResponse:
    wanted = request.POST.get("share", "100")
    share = 1.0 if wanted == CANARY else SHARES.get(wanted)
    if share is None:
        raise Invalid(gettext("Choose one of the shares."), param="share")
    deployment = promote_version(
        project=project,
        version=_version(request, project),
        actor=actor,
        reason=request.POST.get("reason", ""),
        share=share,
        override=request.POST.get("override") == "yes",
        canary=wanted == CANARY,
    )
    said = gettext("Deployment %(n)d serves now.") % {"n": deployment.number}
    messages.success(request, said)
    return _back(request, project)


@login_required
@require_POST
def approve(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Promote what an evaluation found better, by whomever the policy names; a reviewer may be one."""
    project = project_for(request, slug, Membership.Role.REVIEWER)
    found = Evaluation.objects.select_related("candidate__project").filter(project=project, number=number)
    evaluation = found.first()
    if evaluation is None:
        raise NotFound()
    try:
        deployment = promote_version(
            project=project,
            version=evaluation.candidate,
            actor=Actor(user=person(request)),
            reason=f"Evaluation {number}: {evaluation.reason}",
            canary=policy_of(project).promotion == Policy.Promotion.CANARY,
        )
    except Problem as problem:
        messages.error(request, problem.message)
    else:
        messages.success(request, gettext("Deployment %(n)d serves now.") % {"n": deployment.number})
    return redirect("evaluation", slug=slug, number=number)


@manager_action
def roll_back(request: HttpRequest, project: Project, actor: Actor) -> HttpResponse:
    deployment = rollback_version(project=project, actor=actor, reason=request.POST.get("reason", ""))
    said = gettext("Back to v%(v)d: deployment %(n)d serves now.")
    messages.success(request, said % {"v": deployment.champion.number, "n": deployment.number})
    return _back(request, project)


@manager_action
def steer_rollout(request: HttpRequest, project: Project, actor: Actor, number: int) -> HttpResponse:
    """Pause, resume, finish or roll back the version that is on its way."""
    rollout = (
        Rollout.objects.select_related("project", "candidate__project", "champion__project")
        .filter(project=project, number=number)
        .first()
    )
    act = STEERS.get(request.POST.get("act", ""))
    if rollout is None or act is None:
        raise NotFound()
    act(rollout=rollout, actor=actor, reason=request.POST.get("reason", ""))
    messages.success(request, rollout.message)
    return redirect("versions", slug=project.slug)


def followed(compilation: Compilation) -> HttpResponse:
    """To the page that shows how far it is, and goes on by itself."""
    ring(tick_compilations)
    return redirect("compilation", slug=compilation.project.slug, compilation_id=compilation.pk)


def choices_for(project: Project) -> dict[str, Any]:
    """What the dialogs offer: versions that can serve and do not, datasets, and the way back."""
    deployment = current(project)
    versions = (
        Version.objects.filter(project=project, status=Version.Status.AVAILABLE)
        .exclude(kind=Version.Kind.REWARD)
        .exclude(pk=deployment.champion_id)
        .select_related("project")
    )
    return {
        "deployment": deployment,
        "rollout": active_rollout(project),
        "policy": policy_of(project),
        "pipelines": PIPELINES,
        "servable": list(versions),
        "methods": [name for name, method in METHODS.items() if method.makes != ROWS],
        "datasets": list(Dataset.objects.filter(project=project, status=Dataset.Status.READY)[:50]),
    }


def _version(request: HttpRequest, project: Project) -> Version:
    number = read_whole(request.POST.get("version", ""), digits=8) or 0  # they count from 1
    found = Version.objects.select_related("project").filter(project=project, number=number).first()
    if found is None:
        raise Invalid(gettext("Choose a version."), param="version")
    return found


def dataset_numbered(project: Project, number: str) -> Dataset:
    """The dataset that a form names. Raises Invalid."""
    found = Dataset.objects.filter(project=project, number=read_whole(number, digits=8) or 0).first()
    if found is None:
        raise Invalid(gettext("Choose a dataset of this project."), param="dataset")
    return found


def config_of(text: str) -> dict[str, Any] | None:
    """Hyperparameters as JSON, nothing when the field is empty."""
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Invalid(gettext("The settings are not valid JSON: %s.") % error, param="config") from error
    if not isinstance(value, dict):
        raise Invalid(gettext('Write the settings as an object, such as {"epochs": 2}.'), param="config")
    return value


def _back(request: HttpRequest, project: Project, **kwargs: Any) -> HttpResponse:
    """To the page that the button was on, by its name."""
    page = request.POST.get("back", "")
    if page in ("run", "evaluation") and "number" in kwargs:
        return redirect(page, slug=project.slug, number=kwargs["number"])
    return redirect(page if page in BACK else "loop", slug=project.slug)
