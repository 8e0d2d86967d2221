"""The methods that a run can have: what each reads and makes, and what it refuses beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings

from inference.models import Version
from projects.errors import Invalid, NotFound
from projects.models import Project
from training.models import Dataset
from training.recipes.config import ADAPTER_SHAPE, CONFIGS, Config, ConfigError
from training.recipes.preflight import preflight
from training.services.compiler import Preview

ROWS = "rows"  # what runs make that train nothing


@dataclass(frozen=True)
class Method:
    """`module` runs as `python -m module RUN_DIR`; `makes` is a kind of version, or rows."""

    name: str
    module: str
    dataset_format: str
    config: type[Config]
    makes: str = Version.Kind.ADAPTER
    needs_reward: bool = False
    goes_on: bool = False  # it can begin from another run's adapter
    may_read: tuple[str, ...] = ()  # versions that it reads where they are given: reward, judged
    is_parallel: bool = True  # its recipe knows what to do in several processes

    @property
    def processes(self) -> int:
        """How many train together in one of its runs."""
        return int(settings.TRAIN_PROCESSES) if self.is_parallel else 1


def _method(name: str, dataset_format: str, **facts: Any) -> Method:
    return Method(name, f"training.recipes.{name}", dataset_format, CONFIGS[name], **facts)


def _judging(name: str, dataset_format: str) -> Method:
    return _method(name, dataset_format, makes=ROWS, may_read=("reward", "judged"), is_parallel=False)


METHODS = {
    method.name: method
    for method in (
        _method("sft", Dataset.Format.SFT, goes_on=True),
        _method("dpo", Dataset.Format.PREFERENCE, goes_on=True),
        _method("kto", Dataset.Format.UNPAIRED, goes_on=True),
        _method("reward", Dataset.Format.PREFERENCE, makes=Version.Kind.REWARD),
        _method("rloo", Dataset.Format.PROMPTS, needs_reward=True, goes_on=True),
        _method("ppo", Dataset.Format.PROMPTS, needs_reward=True, goes_on=True, is_parallel=False),
        _method("pretrain", Dataset.Format.TEXT),
        _judging("score", Dataset.Gathered.COMPLETIONS),
        _judging("evaluate", Dataset.Gathered.EXAMPLES),
    )
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


def fill_config(
    method: Method, values: dict[str, Any] | None, *, shape: dict[str, Any] | None = None
) -> Config:
    """The hyperparameters, every default written out. Raises Invalid for unknown or wrong ones.

    `shape` is of the adapter that a run goes on with (`shape_of`): it stands, and other values are refused.
    """
    try:
        filled = method.config.from_dict({**(values or {}), **(shape or {})}, partial=True)
    except ConfigError as error:
        raise Invalid(str(error), param="config") from error
    for name, value in (shape or {}).items():
        if (values or {}).get(name, value) != value:
            raise Invalid(
                f"{name} is {value} in the adapter that it goes on with. Leave it out, or write the same.",
                param="config",
            )
    return filled


def shape_of(start: Version | None) -> dict[str, Any]:
    """What an adapter says of itself that a run which goes on with it must say too."""
    made_with = start.manifest.get("config", {}) if start is not None else {}
    return {name: made_with[name] for name in ADAPTER_SHAPE if name in made_with}


def check_config(method: Method, values: dict[str, Any] | None) -> Config:
    """As `fill_config`, and what is out of range before any data is known. Raises Invalid."""
    config = fill_config(method, values)
    if problems := config.problems():
        raise Invalid(" ".join(problems), param="config")
    return config


def check_preflight(method: Method, config: Config, counts: dict[str, int]) -> None:
    """Raises PreflightFailed with every problem in its message. `counts` are rows by part, and more."""
    problems = preflight(config, {**counts, "processes": method.processes})
    if problems:
        raise PreflightFailed(" ".join(problems), problems=problems)


def counts_of(data: Preview | Dataset) -> dict[str, int]:
    """What preflight wants to know of a dataset, or of one that could be compiled."""
    counts = {"train": data.rows, "heldout": data.heldout_rows}
    balance = data.balance if isinstance(data, Preview) else data.manifest.get("balance", {})
    good = balance.get("good")
    if data.format == Dataset.Format.UNPAIRED and good is not None:
        rows = data.rows + data.heldout_rows
        counts["wanted"] = round(good * rows)
        counts["unwanted"] = rows - counts["wanted"]
    return counts


def check_versions(
    method: Method,
    *,
    project: Project,
    reward: Version | None,
    judged: Version | None,
    start: Version | None = None,
) -> Version | None:
    """The reward model that a run will read: the given one, or the newest where one is needed.

    Raises PreflightFailed where it is missing or no reward model of this base, Invalid for a version that
    this method does not read.
    """
    for name, version in (("reward", reward), ("judged", judged), ("start", start)):
        if version is None:
            continue
        if version.project_id != project.id:
            raise NotFound("There is no such version in this project.", param=name)
        reads = {"reward": method.needs_reward, "start": method.goes_on}.get(name, False)
        if name not in method.may_read and not reads:
            raise Invalid(f"{method.name} reads no version as {name}. Leave it out.", param=name)
    if start is not None:
        _check_start(project, start)
    if judged is not None and judged.kind == Version.Kind.REWARD:
        raise Invalid(f"{judged.label} is a reward model; name it as reward.", param="judged")
    if reward is None and method.needs_reward:
        reward = _newest_reward_model(project)
        if reward is None:
            problem = (
                f"{method.config.title} needs a reward model, and {project.slug} has none. Train one first."
            )
            raise PreflightFailed(problem, problems=[problem])
    if reward is not None:
        _check_reward_model(project, reward)
    return reward


def _newest_reward_model(project: Project) -> Version | None:
    return Version.objects.filter(project=project, kind=Version.Kind.REWARD).order_by("-number").first()


def _check_reward_model(project: Project, reward: Version) -> None:
    """Raises PreflightFailed."""
    if problem := reward_model_problem(project, reward):
        raise PreflightFailed(problem, problems=[problem])


def reward_model_problem(project: Project, reward: Version) -> str:
    """Why it is no reward model of this project's base, in a sentence; empty when it is one."""
    if reward.kind != Version.Kind.REWARD:
        return f"{reward.label} is no reward model but of kind {reward.kind}. Train one with method reward."
    return _base_problem(project, reward)


def _check_start(project: Project, start: Version) -> None:
    """Raises PreflightFailed."""
    problem = (
        f"{start.label} is of kind {start.kind}; a run can go on with an adapter only."
        if start.kind != Version.Kind.ADAPTER
        else _base_problem(project, start)
    )
    if problem:
        raise PreflightFailed(problem, problems=[problem])


def _base_problem(project: Project, version: Version) -> str:
    base = Version.objects.filter(project=project, kind=Version.Kind.BASE).order_by("-number").first()
    if base is not None and base.digest.startswith("sha256:") and version.manifest.get("base") != base.digest:
        return f"{version.label} was trained on another base than {project.slug} has now. Train one anew."
    return ""
