"""The methods that a run can have: what each reads, its hyperparameters, and what it refuses beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from projects.errors import Invalid
from training.models import Dataset
from training.recipes.config import Config, ConfigError, DpoConfig
from training.recipes.preflight import preflight


@dataclass(frozen=True)
class Method:
    """`module` runs as `python -m module RUN_DIR`."""

    name: str
    module: str
    dataset_format: str
    config: type[Config]
    preflight: Callable[[Any, dict[str, int]], list[str]]


METHODS = {
    "dpo": Method("dpo", "training.recipes.dpo", Dataset.Format.PREFERENCE, DpoConfig, preflight),
}


class PreflightFailed(Invalid):
    """The run would fail or learn nothing; `problems` says why, a sentence each."""

    code = "preflight_failed"


def find_method(name: str) -> Method:
    """Raises Invalid for an unknown method."""
    try:
        return METHODS[name]
    except KeyError:
        raise Invalid(
            f"There is no method {name}. There are: {', '.join(METHODS)}.", param="method"
        ) from None


def fill_config(method: Method, values: dict[str, Any] | None) -> Config:
    """The hyperparameters, every default written out. Raises Invalid for unknown or wrong ones."""
    try:
        return method.config.from_dict(values or {}, partial=True)
    except ConfigError as error:
        raise Invalid(str(error), param="config") from error


def check_preflight(method: Method, config: Config, *, train: int, heldout: int) -> None:
    """Raises PreflightFailed with every problem in its message."""
    problems = method.preflight(config, {"train": train, "heldout": heldout})
    if problems:
        raise PreflightFailed(" ".join(problems), problems=problems)
