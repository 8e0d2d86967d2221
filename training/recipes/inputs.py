"""What a run was given, checked before anything is loaded. Imports no torch."""

from __future__ import annotations

from typing import Any, TypeVar

from inference.artifact import ArtifactError, verify
from training.recipes.config import ADAPTER_SHAPE, Config, ConfigError
from training.recipes.rundir import BadBase, BadData, BadRun, Run

C = TypeVar("C", bound=Config)


def read_config(run: Run, kind: type[C]) -> C:
    """The hyperparameters in run.json. Raises BadRun with every problem in its message."""
    try:
        config = kind.from_dict(run.spec.config)
    except ConfigError as error:
        raise BadRun(str(error)) from error
    if problems := config.problems():
        raise BadRun(" ".join(problems))
    return config


def check_inputs(run: Run) -> None:
    """The base and the dataset are the ones that run.json names, byte for byte. Raises BadBase, BadData."""
    try:
        verify(run.spec.base_path, expected_digest=run.spec.base_digest)
    except ArtifactError as error:
        raise BadBase(str(error)) from error
    try:
        verify(run.dataset, expected_digest=run.spec.dataset_digest)
    except ArtifactError as error:
        raise BadData(str(error)) from error


def check_version(run: Run, role: str, kind: str) -> dict[str, Any]:
    """The manifest of the version that run.json names for `role`: whole, of this kind, on this base.

    Raises BadRun; `run.spec.versions[role]` then is its folder.
    """
    if role not in run.spec.versions:
        raise BadRun(f"{run.spec.method} needs a {kind} model: run.json names none under versions.{role}.")
    given = run.spec.versions[role]
    try:
        manifest = verify(given.path, expected_digest=given.digest, servable=True)
    except ArtifactError as error:
        raise BadRun(f"versions.{role} cannot be used: {error}") from error
    if manifest.get("kind") != kind:
        raise BadRun(f"versions.{role} is of kind {manifest.get('kind')}, {run.spec.method} needs {kind}.")
    if manifest.get("base") != run.spec.base_digest:
        raise BadRun(
            f"versions.{role} was trained on the base {manifest.get('base')}, this run has "
            f"{run.spec.base_digest}. Train one on this base."
        )
    return manifest


def check_start(run: Run, config: Config) -> dict[str, Any]:
    """The lineage of the adapter that this run goes on with; nothing where it begins from the base.

    Raises BadRun, also for a config of another adapter's shape.
    """
    if "start" not in run.spec.versions:
        return {}
    manifest = check_version(run, "start", kind="adapter")
    before, now = manifest.get("config", {}), config.to_dict()
    for name in ADAPTER_SHAPE:
        if before.get(name) != now[name]:
            raise BadRun(f"{name} is {now[name]}, and versions.start was made with {before.get(name)}.")
    return {"start": run.spec.versions["start"].digest, "start_run": manifest.get("run_id")}
