"""Runs begin and are called off here; what happens between is the supervisor's."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from inference.models import Version
from projects.errors import Conflict, Invalid, NotFound
from projects.ids import uuid7
from projects.models import Project
from projects.services import Actor, record_audit
from projects.services.outbox import record_event
from training.models import Dataset, Pipeline, Run
from training.recipes.config import Config
from training.services.compiler import compile_dataset, discard_dataset, preview_dataset
from training.services.data.rows import Watch
from training.services.examples import gather
from training.services.methods import (
    Method,
    check_preflight,
    check_versions,
    counts_of,
    fill_config,
    find_method,
    shape_of,
)
from training.services.numbers import create_numbered

MAX_SEED = 2**31 - 1


class SlotTaken(Conflict):
    """Another beat started this slot's run already."""

    code = "slot_taken"


class RunOver(Conflict):
    code = "run_over"


class RunNotOver(Conflict):
    """Only what was cancelled or failed can go on."""

    code = "run_not_over"


def runs_of(project: Project) -> QuerySet[Run]:
    return Run.objects.filter(project=project).select_related("project", "dataset", "version__project")


def find_run(project: Project, number: int) -> Run:
    """Raises NotFound."""
    run = runs_of(project).filter(number=number).first()
    if run is None:
        raise NotFound("There is no such run in this project.")
    return run


def create_run(
    *,
    project: Project,
    method: str = "dpo",
    dataset: Dataset | None = None,
    config: dict[str, Any] | None = None,
    reward: Version | None = None,
    start: Version | None = None,
    judged: Version | None = None,
    filters: dict[str, Any] | None = None,
    actor: Actor,
    slot: str | None = None,
    pipeline: Pipeline | None = None,
    stage: int | None = None,
    seed: int = 0,
    id_: UUID | None = None,
    watch: Watch | None = None,
) -> Run:
    """Queue a run; without a dataset one is compiled from all that is usable now. Ring the bell after it.

    `reward` is the reward model that it reads; where one is needed and none is named it is the newest.
    `start` is the adapter that it goes on with; without one it begins from the base.
    `judged` is the version that a run looks at which trains nothing. `filters` are of the dataset that is
    compiled, and `watch` hears of that; `pipeline` and `stage` say whose stage it is. The same `id_` twice is
    an IntegrityError.

    Everything that can be known beforehand is checked before anything is written: raises Invalid
    (PreflightFailed, EmptyDataset), SlotTaken, Conflict for an erased dataset.
    """
    recipe, filled = check_wanted(method, config, start=start, seed=seed)
    if slot is not None and Run.objects.filter(project=project, slot=slot).exists():
        raise SlotTaken(f"The run of {slot} was started already.")
    reward = check_versions(recipe, project=project, reward=reward, judged=judged, start=start)
    compiled = None
    if dataset is None and recipe.dataset_format in Dataset.Gathered.values:
        dataset = compiled = gather(recipe.dataset_format, project=project, actor=actor)
        check_preflight(recipe, filled, {"train": dataset.rows})
    elif dataset is None:
        preview = preview_dataset(project=project, format=recipe.dataset_format, filters=filters, watch=watch)
        check_preflight(recipe, filled, counts_of(preview))
        dataset = compiled = compile_dataset(
            project=project,
            format=recipe.dataset_format,
            filters=filters,
            cutoff=preview.cutoff,
            actor=actor,
            watch=watch,
        )
    else:
        _check_dataset(project, dataset, recipe.dataset_format)
        check_preflight(recipe, filled, counts_of(dataset))
    try:
        run = create_numbered(
            Run,
            id=id_ or uuid7(),
            project=project,
            method=method,
            dataset=dataset,
            config=filled.to_dict(),
            seed=seed,
            reward=reward,
            start=start,
            judged=judged,
            launcher=settings.LAUNCHER,
            total_steps=filled.steps(dataset.rows, recipe.processes),
            slot=slot,
            pipeline=pipeline,
            stage=stage,
            created_by=actor.user,
        )
    except IntegrityError as error:
        if compiled is not None:
            discard_dataset(compiled)
        if slot is not None and Run.objects.filter(project=project, slot=slot).exists():
            raise SlotTaken(f"The run of {slot} was started already.") from error
        if pipeline is not None and pipeline.runs.filter(stage=stage).exists():
            raise SlotTaken(f"Stage {stage} of pipeline {pipeline.number} was started already.") from error
        raise
    record_audit(
        project=project,
        actor=actor,
        action="run.created",
        subject=f"run:{run.number}",
        detail={"method": method, "dataset": dataset.number, "slot": slot},
    )
    return run


def check_wanted(
    method: str, config: dict[str, Any] | None, *, start: Version | None = None, seed: int = 0
) -> tuple[Method, Config]:
    """The method, and its hyperparameters written out. Raises Invalid for what no data could mend."""
    recipe = find_method(method)
    filled = fill_config(recipe, config, shape=shape_of(start))
    if not 0 <= seed <= MAX_SEED:
        raise Invalid(f"seed must be in [0, {MAX_SEED}], got {seed}.", param="seed")
    return recipe, filled


@transaction.atomic
def cancel_run(*, run: Run, actor: Actor) -> Run:
    """Call a run off: at once while it waits, else with its next tick. Raises RunOver when it is over."""
    waiting = Run.objects.filter(pk=run.pk, status=Run.Status.QUEUED).update(
        status=Run.Status.CANCELLED,
        cause=Run.Cause.CANCELLED,
        message="Cancelled before it began.",
        cancel_requested=True,
        finished=timezone.now(),
    )
    if not waiting and not Run.objects.filter(pk=run.pk, status=Run.Status.RUNNING).update(
        cancel_requested=True
    ):
        run.refresh_from_db()
        raise RunOver(f"Run {run.number} is over: it {run.status}.")
    record_audit(project=run.project, actor=actor, action="run.cancelled", subject=f"run:{run.number}")
    run.refresh_from_db()
    if waiting:
        tell_end(run)
    return run


@transaction.atomic
def resume_run(*, run: Run, actor: Actor) -> Run:
    """Queue a run that was cancelled or failed once more. Ring the bell after it.

    It goes on from its last checkpoint, where there is one, with all attempts before it, and so does the
    pipeline that stopped with it. Raises RunNotOver, and Conflict where its dataset was erased.
    """
    if run.dataset.status == Dataset.Status.ERASED:
        raise Conflict(
            f"The dataset of run {run.number} was erased, and its checkpoints with it. Start another run.",
            code="dataset_erased",
        )
    resumed = Run.objects.filter(pk=run.pk, status__in=Run.RESUMABLE).update(
        status=Run.Status.QUEUED,
        cause="",
        message="",
        cancel_requested=False,
        attempt=0,
        handle={},
        started=None,
        finished=None,
    )
    run.refresh_from_db()
    if not resumed:
        raise RunNotOver(f"Run {run.number} is {run.get_status_display()}: there is nothing to resume.")
    Pipeline.objects.filter(runs=run, status__in=Pipeline.STOPPED).update(
        status=Pipeline.Status.RUNNING, finished=None
    )
    record_audit(project=run.project, actor=actor, action="run.resumed", subject=f"run:{run.number}")
    return run


def tell_end(run: Run, *, version: str | None = None) -> None:
    """The event of a run that is over, whichever way. Call it where the row is written."""
    data = {"run": run.number, "method": run.method, "status": run.status, "cause": run.cause}
    record_event(project=run.project, name="run.finished", data={**data, "version": version})


def _check_dataset(project: Project, dataset: Dataset, wanted: str) -> None:
    if dataset.project_id != project.id:
        raise NotFound("There is no such dataset in this project.", param="dataset")
    if dataset.status == Dataset.Status.ERASED:
        raise Conflict(
            f"Dataset {dataset.number} was erased. Compile a new one.", code="dataset_erased", param="dataset"
        )
    if dataset.format != wanted:
        raise Invalid(f"This method reads {wanted} datasets, not {dataset.format}.", param="dataset")
