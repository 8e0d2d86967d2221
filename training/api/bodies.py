"""What clients send to datasets, runs, evaluations and deployments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from feedback.api.bodies import VersionName
from projects.bodies import StrictBody, Time
from training.services.filters import DatasetFilters
from training.services.runs import MAX_SEED

Reason = Annotated[str, Field(max_length=2000)]


class DatasetBody(StrictBody):
    """Compile a dataset, or with `dry_run` only count what it would hold; with `background` by a worker."""

    format: Literal["preference", "sft", "unpaired", "prompts", "text"] = "preference"
    filters: DatasetFilters = DatasetFilters()
    cutoff: Time | None = None
    dry_run: bool = False
    background: bool = False


class DocumentLine(StrictBody):
    """One line of an import of plain text."""

    text: Annotated[str, Field(min_length=1)]
    external_id: Annotated[str, Field(max_length=200)] = ""
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=60)]], Field(max_length=50)] = []


class RunBody(StrictBody):
    """Without `dataset` one is compiled from all that is usable now. `config` overrides defaults.

    `reward` is the reward model that rloo, ppo, score and evaluate read (for the first two: without it the
    newest); `judged` the version that score and evaluate look at, without it the base.
    """

    method: Annotated[str, Field(max_length=12)] = "dpo"
    dataset: Annotated[int, Field(ge=1, le=999_999_999)] | None = None
    config: dict[str, Any] = {}
    reward: VersionName | None = None
    judged: VersionName | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0


class EvaluationBody(StrictBody):
    """With `sample` Ratchet makes the answers and asks the raters; without, the caller does."""

    candidate: VersionName
    champion: VersionName | None = None
    sample: bool = False


class DeploymentBody(StrictBody):
    """Promote a version (`share` below 1: as a canary of that share), or roll back to the one before.

    `canary` begins at 1 % of conversations and goes up by itself, or back: see rollouts.
    `override` promotes without a verdict; the reason is then audited.
    """

    version: VersionName | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    canary: bool = False
    override: bool = False
    rollback: bool = False
    reason: Reason

    @model_validator(mode="after")
    def _one_of_the_two(self) -> DeploymentBody:
        if self.rollback == (self.version is not None):
            raise ValueError("send either a version to promote, or rollback: true")
        if self.rollback and (self.override or self.canary or self.share != 1.0):
            raise ValueError("a rollback takes no share, no canary and no override")
        return self


Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Hours = Annotated[float, Field(ge=0, le=100_000)]


class PolicyBody(StrictBody):
    """What is to change; the rest stays. `version` refuses when somebody else changed it since that one.

    With `dry_run` nothing is saved: the answer says what would start.
    """

    is_enabled: bool | None = None
    cron: Annotated[str, Field(max_length=60)] | None = None
    min_new_judgements: Count | None = None
    method: Annotated[str, Field(max_length=20)] | None = None
    config: dict[str, Any] | None = None
    per_rater_cap: Count | None = None
    per_prompt_cap: Count | None = None
    day_hours: Hours | None = None
    week_hours: Hours | None = None
    asks_raters: bool | None = None
    margin: Annotated[float, Field(ge=0, le=0.5)] | None = None
    min_battles: Count | None = None
    approval: Literal["automatic", "reviewer", "manager", "operator"] | None = None
    promotion: Literal["canary", "at_once"] | None = None
    canary_minutes: Count | None = None
    canary_answers: Count | None = None
    canary_judgements: Count | None = None
    watch_hours: Annotated[int, Field(ge=0, le=8784)] | None = None
    version: Annotated[int, Field(ge=0)] | None = None
    dry_run: bool = False

    def changes(self) -> dict[str, Any]:
        """The fields that were sent."""
        said = self.model_dump(exclude={"version", "dry_run"}, exclude_unset=True)
        return {name: value for name, value in said.items() if value is not None}


class PipelineBody(StrictBody):
    """Start a pipeline; `configs` is by method, what is not named takes its default.

    `filters` are of the dataset of each stage, as far as they fit what it reads.
    """

    name: Annotated[str, Field(max_length=20)]
    configs: dict[str, Any] = {}
    filters: DatasetFilters = DatasetFilters()


class SteerBody(StrictBody):
    """Why a rollout is paused, resumed, finished or rolled back."""

    reason: Reason
