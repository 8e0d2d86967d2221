"""What a run would be, in sentences, before it is queued: rows, minutes, memory, what would be refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from projects.errors import Problem
from projects.models import Project
from training.models import Dataset
from training.recipes.estimates import Estimate
from training.services.advice import TOKENS_A_TEXT, estimate_run
from training.services.compiler import preview_dataset
from training.services.methods import check_preflight, check_versions, counts_of, fill_config, find_method


@dataclass(frozen=True)
class Foretold:
    """`problem` is what the run would be refused for, empty when it would be queued. Nothing was written."""

    rows: int | None = None
    unit: str = ""
    steps: int | None = None
    estimate: Estimate | None = None
    tokens_a_text: float = TOKENS_A_TEXT
    problem: str = ""
    config: dict[str, Any] = field(default_factory=dict)


def foretell_run(
    project: Project, *, method: str, dataset: Dataset | None = None, config: dict[str, Any] | None = None
) -> Foretold:
    """Counted as compiling would count; the same checks as `create_run`, in the same order."""
    rows, steps, foretold, unit = None, None, None, ""
    try:
        recipe = find_method(method)
        filled = fill_config(recipe, config)
        unit = recipe.config.unit
        data = dataset or preview_dataset(project=project, format=recipe.dataset_format)
        rows, steps = data.rows, filled.steps(data.rows, recipe.processes)
        foretold = estimate_run(project, filled, rows=data.rows)
        check_versions(recipe, project=project, reward=None, judged=None)
        check_preflight(recipe, filled, counts_of(data))
    except Problem as problem:
        return Foretold(rows, unit, steps, foretold, problem=problem.message)
    return Foretold(rows, unit, steps, foretold, config=filled.to_dict())
