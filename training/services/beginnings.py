"""What begins with a compilation: a run, a pipeline, a training without a person who was erased.

A program or a page says what it wants; a small project's begins in the request, a large one's with a worker
(compilations.py), from the same words. They are plain JSON, so that a row can keep them: versions, datasets
and erasures by number.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from inference.models import Version
from projects.errors import NotFound
from projects.models import Project
from projects.services import Actor
from training.models import Compilation, Dataset, Erasure, Run
from training.services.data.rows import Watch
from training.services.erasure import find_retraining, retrain_without
from training.services.methods import METHODS, check_versions
from training.services.pipelines import check_configs, find_pipeline, start_pipeline
from training.services.runs import check_wanted, create_run

Kind = Compilation.Kind


def check(project: Project, kind: str, wanted: dict[str, Any]) -> tuple[str, int]:
    """The format that it reads, and how often its judgements are read until it has begun.

    Raises what the service would refuse before it reads any.
    """
    if kind == Kind.RUN:
        recipe, _ = check_wanted(wanted["method"], wanted["config"], seed=wanted["seed"])
        check_versions(recipe, project=project, **_versions(project, wanted))
        return recipe.dataset_format, 2  # counted, then written
    if kind == Kind.PIPELINE:
        stages = find_pipeline(wanted["name"])
        check_configs(stages, wanted["configs"])
    else:
        run, is_pipeline = find_retraining(_erasure(project, wanted))
        if not is_pipeline:
            return run.dataset.format, 1
        assert run.pipeline is not None  # noqa: S101 - it is one
        stages = tuple(run.pipeline.stages)
    return METHODS[stages[0]].dataset_format, len(stages) + 1


def begin(
    project: Project,
    kind: str,
    wanted: dict[str, Any],
    *,
    actor: Actor,
    id_: UUID | None = None,
    watch: Watch | None = None,
) -> Run:
    """The run, of a pipeline the first one. Ring the bell after it.

    Raises what `create_run`, `start_pipeline` and `retrain_without` raise.
    """
    how: dict[str, Any] = {"actor": actor, "id_": id_, "watch": watch}
    if kind == Kind.RUN:
        number = wanted["dataset"]
        dataset = None if number is None else Dataset.objects.filter(project=project, number=number).first()
        if number is not None and dataset is None:
            raise NotFound("There is no such dataset in this project.", param="dataset")
        rest = {name: wanted[name] for name in ("method", "config", "seed")}
        return create_run(project=project, dataset=dataset, **rest, **_versions(project, wanted), **how)
    if kind == Kind.PIPELINE:
        return start_pipeline(project=project, **wanted, **how).runs.get()
    return retrain_without(erasure=_erasure(project, wanted), **how)


def _versions(project: Project, wanted: dict[str, Any]) -> dict[str, Any]:
    """The versions that a run reads, by role."""
    found = Version.objects.select_related("project").filter(project=project)
    return {
        role: None if wanted[role] is None else found.get(number=wanted[role])
        for role in ("reward", "judged")
    }


def _erasure(project: Project, wanted: dict[str, Any]) -> Erasure:
    return Erasure.objects.select_related("project").get(project=project, number=wanted["erasure"])
