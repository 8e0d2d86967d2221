"""Runs one after the other by themselves: SFT, then DPO; or a reward model, then a policy against it.

Each stage is a run like any other. A stage begins when the one before is done: against the reward model that
an earlier one made, going on with the adapter that an earlier one made. Where one fails, the pipeline stops
with that cause. Beat ticks; a stage is started once, whoever ticks.
"""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.db import IntegrityError
from django.utils import timezone

from inference.models import Version
from projects.errors import Conflict, Invalid, Problem
from projects.ids import uuid7
from projects.models import Project
from projects.services import SYSTEM, Actor, record_audit
from training.models import Pipeline, Run
from training.recipes.config import ADAPTER_SHAPE
from training.services.compiler import preview_dataset
from training.services.data.rows import Watch
from training.services.filters import fitting
from training.services.methods import (
    METHODS,
    check_config,
    check_preflight,
    counts_of,
    fill_config,
    find_method,
)
from training.services.numbers import create_numbered
from training.services.runs import RunOver, SlotTaken, cancel_run, create_run

logger = logging.getLogger(__name__)

# Each stage after the first uses what one before it made; what reads people more closely comes later.
PIPELINES: dict[str, tuple[str, ...]] = {
    name: tuple(name.split("-"))
    for name in (
        "sft-dpo",
        "sft-kto",
        "kto-dpo",
        "pretrain-sft",
        "pretrain-dpo",
        "pretrain-sft-dpo",
        "reward-rloo",
        "reward-ppo",
        "sft-reward-rloo",
        "sft-reward-ppo",
    )
}


class PipelineOver(Conflict):
    code = "pipeline_over"


def start_pipeline(
    *,
    project: Project,
    name: str,
    configs: dict[str, Any] | None = None,
    filters: dict[str, Any] | None = None,
    actor: Actor,
    slot: str | None = None,
    id_: UUID | None = None,
    watch: Watch | None = None,
) -> Pipeline:
    """The pipeline with its first run queued. Ring the bell after it.

    `configs` is by method; `watch` hears of the compilation. Raises Invalid for an unknown pipeline or
    config, PreflightFailed where a later stage would have too little to learn from, what `create_run` raises
    for the first one, and SlotTaken; then there is neither.
    """
    stages = find_pipeline(name)
    check_configs(stages, configs or {})
    for method in stages[1:]:
        _check_data(project, method, (configs or {}).get(method), filters or {}, watch)
    try:
        pipeline = create_numbered(
            Pipeline,
            id=id_ or uuid7(),
            project=project,
            name=name,
            stages=list(stages),
            configs=configs or {},
            filters=filters or {},
            slot=slot,
            created_by=actor.user,
        )
    except IntegrityError as error:
        raise SlotTaken(f"The pipeline of {slot} was started already.") from error
    try:
        run = _start_stage(pipeline, 0, actor, watch)
    except BaseException:
        pipeline.delete()
        raise
    _say(pipeline, run)
    record_audit(
        project=project,
        actor=actor,
        action="pipeline.created",
        subject=f"pipeline:{pipeline.number}",
        detail={"name": name, "slot": slot},
    )
    return pipeline


def cancel_pipeline(*, pipeline: Pipeline, actor: Actor) -> Pipeline:
    """Call off its run and what would come after. Raises PipelineOver."""
    values = {"message": f"Cancelled by {actor.label}."}
    if not _end(pipeline, Pipeline.Status.CANCELLED, **values):
        raise PipelineOver(f"Pipeline {pipeline.number} is over: {pipeline.message}")
    for run in pipeline.runs.filter(status__in=Run.ACTIVE).select_related("project"):
        try:
            cancel_run(run=run, actor=actor)
        except RunOver:
            logger.info("%s ended by itself", run)
    record_audit(
        project=pipeline.project,
        actor=actor,
        action="pipeline.cancelled",
        subject=f"pipeline:{pipeline.number}",
    )
    return pipeline


def tick_pipelines() -> int:
    """Begin the stages whose turn it is. Returns how many runs were queued."""
    began = 0
    for pipeline in Pipeline.objects.filter(status=Pipeline.Status.RUNNING).select_related("project"):
        began += tick_pipeline(pipeline)
    return began


def tick_pipeline(pipeline: Pipeline) -> bool:
    """One step: True when a run was queued."""
    run = pipeline.runs.select_related("version").order_by("-stage").first()
    if run is None or run.is_active:
        # Without a run its start is under way, or its process died in it: then it never began.
        if run is None and (timezone.now() - pipeline.created).total_seconds() > 3600:
            _end(pipeline, Pipeline.Status.FAILED, message="It never began: the process that made it died.")
        elif run is not None:
            _say(pipeline, run)
        return False
    method = pipeline.stages[run.stage or 0]
    if run.status != Run.Status.FINISHED:
        status = Pipeline.Status.CANCELLED if run.status == Run.Status.CANCELLED else Pipeline.Status.FAILED
        cause = f" ({run.get_cause_display()})" if run.cause else ""
        _end(pipeline, status, message=f"Run {run.number}, {method}, {run.status}{cause}: {run.message}")
        return False
    following = (run.stage or 0) + 1
    if following == len(pipeline.stages):
        made = f" and made v{run.version.number}" if run.version else ""
        _end(pipeline, Pipeline.Status.FINISHED, message=f"Run {run.number} finished{made}.")
        return False
    try:
        run = _start_stage(pipeline, following, SYSTEM)
    except SlotTaken:
        return False
    except Problem as error:
        _end(
            pipeline,
            Pipeline.Status.FAILED,
            message=f"{pipeline.stages[following]} could not begin: {error.message}",
        )
        return False
    _say(pipeline, run)
    return True


def find_pipeline(name: str) -> tuple[str, ...]:
    """Its methods. Raises Invalid."""
    try:
        return PIPELINES[name]
    except KeyError:
        raise Invalid(
            f"There is no pipeline {name}. There are: {', '.join(PIPELINES)}.", param="name"
        ) from None


def check_configs(stages: tuple[str, ...], configs: dict[str, Any]) -> None:
    """Raises Invalid for settings of a method that is no stage, and for wrong ones of one that is.

    Wrong are also those that would make another adapter of the one that a stage goes on with.
    """
    for method, values in configs.items():
        if method not in stages:
            raise Invalid(
                f"{method} is no stage of it. Write the settings by method: {', '.join(stages)}.",
                param="config",
            )
        if not isinstance(values, dict):
            raise Invalid(f"The settings of {method} must be an object.", param="config")
        check_config(METHODS[method], values)
    shape: dict[str, Any] = {}
    for recipe in (METHODS[method] for method in stages):
        config = fill_config(recipe, configs.get(recipe.name), shape=shape if recipe.goes_on else None)
        if recipe.makes == Version.Kind.ADAPTER and not shape:
            shape = {name: getattr(config, name) for name in ADAPTER_SHAPE}


def filters_for(method: str, filters: dict[str, Any]) -> dict[str, Any]:
    """Those that fit what the method reads: caps of judgements say nothing about bare prompts."""
    return fitting(filters, find_method(method).dataset_format)


def _start_stage(pipeline: Pipeline, stage: int, actor: Actor, watch: Watch | None = None) -> Run:
    method = pipeline.stages[stage]
    return create_run(
        project=pipeline.project,
        method=method,
        config=pipeline.configs.get(method),
        reward=_made_before(pipeline, stage, Version.Kind.REWARD) if METHODS[method].needs_reward else None,
        start=_made_before(pipeline, stage, Version.Kind.ADAPTER) if METHODS[method].goes_on else None,
        filters=filters_for(method, pipeline.filters),
        actor=actor,
        pipeline=pipeline,
        stage=stage,
        watch=watch,
    )


def _made_before(pipeline: Pipeline, stage: int, kind: str) -> Version | None:
    """The newest version of this kind that the stages before made."""
    runs = pipeline.runs.filter(stage__lt=stage, version__kind=kind).select_related("version__project")
    run = runs.order_by("-stage").first()
    return run.version if run is not None else None


def _check_data(
    project: Project,
    method: str,
    config: dict[str, Any] | None,
    filters: dict[str, Any],
    watch: Watch | None,
) -> None:
    """A later stage finds enough to learn from. Raises PreflightFailed."""
    recipe = METHODS[method]
    preview = preview_dataset(
        project=project,
        format=recipe.dataset_format,
        filters=filters_for(method, filters),
        watch=watch,
    )
    check_preflight(recipe, fill_config(recipe, config), counts_of(preview))


def _say(pipeline: Pipeline, run: Run) -> None:
    place = f"stage {(run.stage or 0) + 1} of {len(pipeline.stages)}"
    message = f"Run {run.number}, {run.method}, is {run.status}: {place}."
    if message != pipeline.message:
        Pipeline.objects.filter(pk=pipeline.pk, status=Pipeline.Status.RUNNING).update(message=message)
        pipeline.message = message


def _end(pipeline: Pipeline, status: str, *, message: str) -> bool:
    ended = Pipeline.objects.filter(pk=pipeline.pk, status=Pipeline.Status.RUNNING).update(
        status=status, message=message, finished=timezone.now()
    )
    pipeline.refresh_from_db()
    return bool(ended)
