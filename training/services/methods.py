"""The methods that a run can have: what each reads and makes, and what it refuses beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings

from inference.models import Version
from projects.errors import Invalid, NotFound
from projects.models import Project
from training.models import Dataset
from training.recipes.config import CONFIGS, Config, ConfigError
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
        _method("sft", Dataset.Format.SFT),
        _method("dpo", Dataset.Format.PREFERENCE),
        _method("kto", Dataset.Format.UNPAIRED),
        _method("reward", Dataset.Format.PREFERENCE, makes=Version.Kind.REWARD),
        _method("rloo", Dataset.Format.PROMPTS, needs_reward=True),
        _method("ppo", Dataset.Format.PROMPTS, needs_reward=True, is_parallel=False),
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


def fill_config(method: Method, values: dict[str, Any] | None) -> Config:
    """The hyperparameters, every default written out. Raises Invalid for unknown or wrong ones."""
    try:
        return method.config.from_dict(values or {}, partial=True)
    except ConfigError as error:
        raise Invalid(str(error), param="config") from error


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
    method: Method, *, project: Project, reward: Version | None, judged: Version | None
) -> Version | None:
    """The reward model that a run will read: the given one, or the newest where one is needed.

    Raises PreflightFailed where it is missing or no reward model of this base, Invalid for a version that
    this method does not read.
    """
    for name, version in (("reward", reward), ("judged", judged)):
        if version is None:
            continue
        if version.project_id != project.id:
            raise NotFound("There is no such version in this project.", param=name)
        if name not in method.may_read and not (name == "reward" and method.needs_reward):
            raise Invalid(f"{method.name} reads no version as {name}. Leave it out.", param=name)
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
    base = Version.objects.filter(project=project, kind=Version.Kind.BASE).order_by("-number").first()
    if reward.kind != Version.Kind.REWARD:
        return f"{reward.label} is no reward model but of kind {reward.kind}. Train one with method reward."
    if base is not None and base.digest.startswith("sha256:") and reward.manifest.get("base") != base.digest:
        return f"{reward.label} was trained on another base than {project.slug} has now. Train one anew."
    return ""
