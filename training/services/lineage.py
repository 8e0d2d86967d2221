"""A label's way and back: judgement, dataset, run, version, verdict, deployment.

From any one of them, all that came of it and all that it came from. Runs, versions, evaluations and
deployments are a few rows each; the judgements of a dataset are found by its index (data/index.py), so
that a million of them costs no more than a thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db.models import Q

from feedback.models import Feedback, Flag, Preference
from feedback.services.record import KINDS, find_feedback
from inference.models import Deployment, Prompt, Version
from inference.services.references import find_version
from projects.errors import Invalid, NotFound
from projects.models import Project
from projects.numbers import read_whole
from training.models import Dataset, Evaluation, Run
from training.services.data.index import FEEDBACK, ids_of
from training.services.descent import runs_behind, runs_from

# From what a lineage may start, by the words of the API and of the addresses.
STARTS = ("feedback", "dataset", "run", "version", "evaluation", "deployment")


@dataclass
class Lineage:
    """What hangs together, newest first. `judgement` is the label it started from, when it did."""

    start: str
    judgement: Feedback | None = None
    datasets: list[Dataset] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    deployments: list[Deployment] = field(default_factory=list)

    @property
    def judgements(self) -> int:
        """How many judgements are behind its datasets; one is counted in each dataset that has it."""
        return sum(behind(dataset) for dataset in self.datasets)


def lineage_from(*, project: Project, start: str, name: str) -> Lineage:
    """The lineage of `name`: an id of feedback, a version as `v7`, a number of anything else.

    Raises Invalid, NotFound.
    """
    if start not in STARTS:
        raise Invalid(f"A lineage starts from one of {', '.join(STARTS)}.", param="start")
    found = Lineage(start)
    _STARTERS[start](project, name, found)
    return found


def behind(dataset: Dataset) -> int:
    """How many judgements its rows are made of."""
    used = dataset.manifest.get("counts", {}).get("used")
    if used is not None:
        return int(used)
    with ids_of(dataset.folder, FEEDBACK) as ids:
        return len(ids)


def datasets_with(project: Project, feedback_id: UUID) -> list[Dataset]:
    """Those whose rows this judgement is behind, newest first."""
    found = []
    for dataset in Dataset.objects.filter(project=project):
        with ids_of(dataset.folder, FEEDBACK) as ids:
            if feedback_id in ids:
                found.append(dataset)
    return found


def judgements_behind(dataset: Dataset, *, start: int, count: int) -> tuple[list[Feedback], int]:
    """A page of the judgements behind its rows, oldest first, and how many there are in all.

    One that was removed with its person is counted and is no longer a row.
    """
    with ids_of(dataset.folder, FEEDBACK) as ids:
        wanted, total = ids.page(start, count), len(ids)
    rows: dict[UUID, Feedback] = {}
    for model in (model for model in KINDS.values() if model is not Flag):
        found = model.objects.filter(project=dataset.project_id, pk__in=wanted).select_related("rater")
        rows |= {row.pk: row for row in found}
    return [rows[id_] for id_ in wanted if id_ in rows], total


# --- starts ----------------------------------------------------------------------------------------------
def _from_feedback(project: Project, name: str, found: Lineage) -> None:
    try:
        id_ = UUID(name)
    except ValueError as error:
        raise NotFound("There is no such judgement in this project.", param="feedback") from error
    row = find_feedback(project=project, feedback_id=id_)
    found.judgement = row
    found.datasets = datasets_with(project, id_)
    found.runs = _runs(project, Q(dataset__in=found.datasets))
    _follow(project, found, evidence=_as_evidence(project, row))


def _from_dataset(project: Project, name: str, found: Lineage) -> None:
    found.datasets = [_numbered(Dataset.objects.filter(project=project), name, "dataset")]
    found.runs = _runs(project, Q(dataset__in=found.datasets))
    _follow(project, found)


def _from_run(project: Project, name: str, found: Lineage) -> None:
    run = _numbered(_runs_of(project), name, "run")
    found.runs = [run, *runs_behind([run], _runs_of(project))]
    _follow(project, found)
    _lead_back(found)


def _from_version(project: Project, name: str, found: Lineage) -> None:
    _of_versions(project, [find_version(project, name)], found)


def _from_evaluation(project: Project, name: str, found: Lineage) -> None:
    evaluation = _numbered(_evaluations_of(project), name, "evaluation")
    _of_versions(project, [evaluation.candidate], found)


def _from_deployment(project: Project, name: str, found: Lineage) -> None:
    """What it brought, with the evidence for it: other deployments of the same version are not of it."""
    deployment = _numbered(_deployments_of(project), name, "deployment")
    brought = deployment.canary or deployment.champion
    _of_versions(project, [brought], found)
    found.deployments = [deployment]
    proved = deployment.detail.get("evaluation")
    if proved is not None:
        found.evaluations = [one for one in found.evaluations if one.number == proved]


_STARTERS: dict[str, Callable[[Project, str, Lineage], None]] = {
    "feedback": _from_feedback,
    "dataset": _from_dataset,
    "run": _from_run,
    "version": _from_version,
    "evaluation": _from_evaluation,
    "deployment": _from_deployment,
}


# --- steps -----------------------------------------------------------------------------------------------
def _of_versions(project: Project, versions: list[Version], found: Lineage) -> None:
    """Back to what they learned from, and on to where they served."""
    runs = _runs(project, Q(version__in=versions))
    found.runs = [*runs, *runs_behind(runs, _runs_of(project))]
    found.versions = versions
    _find_ends(project, found)
    _lead_back(found)


def _follow(project: Project, found: Lineage, *, evidence: Iterable[Evaluation] = ()) -> None:
    """On from its runs, also to the runs that build on what they made."""
    found.runs += runs_from(found.runs, _runs_of(project))
    made = [run.version for run in found.runs if run.version is not None]
    found.versions = sorted({one.pk: one for one in made}.values(), key=lambda one: -one.number)
    _find_ends(project, found, evidence=evidence)


def _find_ends(project: Project, found: Lineage, *, evidence: Iterable[Evaluation] = ()) -> None:
    """Verdicts and deployments of its versions; and the evaluations that a label is evidence of."""
    of_versions = _evaluations_of(project).filter(candidate__in=found.versions)
    evaluations = {one.pk: one for one in [*of_versions, *evidence]}
    found.evaluations = sorted(evaluations.values(), key=lambda one: -one.number)
    served = Q(champion__in=found.versions) | Q(canary__in=found.versions)
    found.deployments = list(_deployments_of(project).filter(served))


def _lead_back(found: Lineage) -> None:
    """The datasets of its runs."""
    datasets = {run.dataset_id: run.dataset for run in found.runs}
    found.datasets = sorted(datasets.values(), key=lambda one: -one.number)


def _as_evidence(project: Project, row: Feedback) -> list[Evaluation]:
    """The evaluations that a preference on one of their gate prompts counts in."""
    if not isinstance(row, Preference) or row.prompt.split not in Prompt.HELD_OUT:
        return []
    prompt = str(row.prompt_id)
    shown = set(row.candidates.values_list("completion__version_id", flat=True))
    pairs = Q(candidate__in=shown, champion__in=shown)
    return [one for one in _evaluations_of(project).filter(pairs) if prompt in one.prompt_ids]


# --- rows ------------------------------------------------------------------------------------------------
def _runs(project: Project, which: Q) -> list[Run]:
    return list(_runs_of(project).filter(which))


def _runs_of(project: Project) -> Any:
    return Run.objects.filter(project=project).select_related(
        "project", "dataset", "version__project", "reward__project", "start__project"
    )


def _evaluations_of(project: Project) -> Any:
    return Evaluation.objects.filter(project=project).select_related(
        "candidate__project", "champion__project"
    )


def _deployments_of(project: Project) -> Any:
    return Deployment.objects.filter(project=project).select_related(
        "champion__project", "canary__project", "user", "api_key"
    )


def _numbered(rows: Any, name: str, what: str) -> Any:
    number = read_whole(name, digits=9)
    found = rows.filter(number=number).first() if number is not None else None
    if found is None:
        raise NotFound(f"There is no {what} {name[:40]} in this project.", param=what)
    return found
