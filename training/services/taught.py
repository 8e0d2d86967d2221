"""What one person's labels taught: the datasets that they went into, and how versions made of these did."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from feedback.models import Correction, Preference, Rating
from inference.models import Prompt, Version
from inference.services.versions import current
from projects.models import Project, User
from training.models import Dataset, Evaluation, Run
from training.services.data.index import FEEDBACK, ids_of

MOST_LABELS = 50_000  # the newest of each kind
MOST_DATASETS = 50  # the newest
MOST_EVALUATIONS = 50


@dataclass
class Taught:
    """One version that learned from them, with the newest verdict on it."""

    version: Version
    run: Run
    labels: int  # of this person, in its dataset
    verdict: Evaluation | None = None
    is_live: bool = False
    is_canary: bool = False

    @property
    def share(self) -> float:
        """Of the judgements behind its dataset."""
        behind = self.run.dataset.manifest.get("counts", {}).get("used") or 0
        return min(1.0, self.labels / behind) if behind else 0.0


@dataclass
class LabelsTaught:
    total: int = 0  # judgements of this person that stand
    used: int = 0  # of all that they ever gave, those in any of the datasets looked at
    versions: list[Taught] = field(default_factory=list)
    # Datasets of which no version is made yet, with how many of the labels are in each.
    datasets: list[tuple[Dataset, int]] = field(default_factory=list)
    # Decided evaluations, with how many of this person's votes were on their prompts.
    votes: list[tuple[Evaluation, int]] = field(default_factory=list)

    @property
    def live(self) -> Taught | None:
        return next((one for one in self.versions if one.is_live), None)


def labels_taught(*, project: Project, user: User) -> LabelsTaught:
    """Newest first. A few queries, and a look into the index of each dataset."""
    found = LabelsTaught(total=_standing(project, user))
    mine = _ids(project, user)
    if not mine:
        return found
    within: dict[UUID, int] = {}
    used: set[UUID] = set()
    datasets = list(Dataset.objects.filter(project=project).order_by("-number")[:MOST_DATASETS])
    for dataset in datasets:
        with ids_of(dataset.folder, FEEDBACK) as ids:
            held = ids.among(mine)
        if held:
            within[dataset.pk] = len(held)
            used.update(held)
    found.used = len(used)
    runs = list(
        Run.objects.filter(dataset__in=within, version__isnull=False)
        .select_related("dataset", "version__project")
        .order_by("-number")
    )
    found.versions = [Taught(run.version, run, within[run.dataset_id]) for run in runs if run.version]
    with_version = {run.dataset_id for run in runs}
    found.datasets = [
        (one, within[one.pk]) for one in datasets if one.pk in within and one.pk not in with_version
    ]
    _judge(project, found.versions)
    found.votes = _votes(project, user)
    return found


def _standing(project: Project, user: User) -> int:
    kinds = (Rating, Preference, Correction)
    return sum(kind.objects.usable().filter(project=project, rater=user).count() for kind in kinds)


def _ids(project: Project, user: User) -> list[UUID]:
    """Also what was taken back since: an older dataset has it."""
    found: list[UUID] = []
    for kind in (Rating, Preference, Correction):
        rows = kind.objects.filter(project=project, rater=user).order_by("-id")
        found += rows.values_list("pk", flat=True)[:MOST_LABELS]
    return found


def _judge(project: Project, taught: list[Taught]) -> None:
    verdicts: dict[UUID, Evaluation] = {}
    decided = Evaluation.objects.filter(
        candidate__in=[one.version for one in taught], status=Evaluation.Status.DECIDED
    )
    for evaluation in decided.select_related("champion__project").order_by("number"):
        verdicts[evaluation.candidate_id] = evaluation
    serving = current(project)
    for one in taught:
        one.verdict = verdicts.get(one.version.pk)
        one.is_live = one.version.pk == serving.champion_id
        one.is_canary = one.version.pk == serving.canary_id


def _votes(project: Project, user: User) -> list[tuple[Evaluation, int]]:
    """Evaluations that this person's votes on the gate's prompts helped to decide."""
    asked = Preference.objects.usable().filter(project=project, rater=user, prompt__split__in=Prompt.HELD_OUT)
    prompts = {str(pk) for pk in asked.values_list("prompt_id", flat=True)[:MOST_LABELS]}
    if not prompts:
        return []
    decided = Evaluation.objects.filter(project=project, status=Evaluation.Status.DECIDED)
    rows = decided.select_related("candidate__project", "champion__project").order_by("-number")
    counted = [(one, len(prompts.intersection(one.prompt_ids))) for one in rows[:MOST_EVALUATIONS]]
    return [(one, count) for one, count in counted if count]
