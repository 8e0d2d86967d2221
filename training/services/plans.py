"""What a policy would start now, in a sentence. The tick starts exactly what is said here, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from projects.errors import Problem
from training.models import Pipeline, Policy, Run
from training.services.advice import estimate_run
from training.services.budgets import Budget, budgets_of
from training.services.compiler import preview_dataset
from training.services.methods import METHODS, check_preflight, check_versions, counts_of, fill_config
from training.services.pipelines import PIPELINES, check_configs, filters_for, find_pipeline
from training.services.schedule import next_run_in_words

_NAMES = {
    "sft": "SFT", "dpo": "DPO", "kto": "KTO", "rloo": "RLOO", "ppo": "PPO", "reward": "a reward model",
    "pretrain": "training on plain text",
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One run: rows that it would read (None where a former stage must be done first), and its minutes."""

    method: str
    rows: int | None
    minutes: float | None


@dataclass(frozen=True)
class Plan:
    """`problem` is why nothing can start, empty when it can; time alone mends it where `is_over_budget`."""

    stages: list[Stage]
    budgets: list[Budget]
    problem: str = ""
    filters: dict[str, Any] = field(default_factory=dict)
    is_over_budget: bool = False

    @property
    def minutes(self) -> float:
        return sum(stage.minutes or 0.0 for stage in self.stages)

    def in_words(self) -> str:
        """`would start DPO on 412 pairs, about 4 minutes; 0.3 of 2 device hours used today`."""
        what = ", then ".join(_stage_in_words(stage) for stage in self.stages)
        used = [said for budget in self.budgets if (said := budget.in_words())]
        about = f", about {_minutes(self.minutes)}" if self.minutes else ""
        if self.problem:
            return "; ".join([f"Would start nothing: {self.problem.rstrip('.')}", *used]) + "."
        return "; ".join([f"Would start {what}{about}", *used]) + "."


def plan_start(policy: Policy, now: datetime) -> Plan:
    """What would start if the policy were due: the rows are counted as compiling would count them.

    Nothing is written. A plan with a `problem` starts nothing: something runs already, there is too little to
    learn from, or a budget is used up or would be.
    """
    filters = {"per_rater_cap": policy.per_rater_cap, "per_prompt_cap": policy.per_prompt_cap}
    budgets = budgets_of(policy, now)
    try:
        stages = _stages(policy, filters)
    except Problem as problem:
        return Plan([], budgets, problem.message, filters)
    plan = Plan(stages, budgets, filters=filters)
    too_much = _too_much(plan)
    return replace(plan, problem=busy_with(policy) or too_much, is_over_budget=bool(too_much))


def dry_run_in_words(policy: Policy, now: datetime) -> str:
    """When, what, how long, of which budget, and what becomes of it: for the editor, before it is saved."""
    when = next_run_in_words(policy, now) if policy.is_enabled else "It is off, so nothing starts by itself."
    judged = (
        "Raters then compare its answers with the champion's"
        if policy.asks_raters
        else "Its answers are then compared with the champion's, and no rater is asked"
    )
    approved = {
        Policy.Approval.AUTOMATIC: "a verdict to promote promotes it",
        Policy.Approval.REVIEWER: "a reviewer or a manager promotes it",
        Policy.Approval.MANAGER: "a manager promotes it",
        Policy.Approval.OPERATOR: "an operator promotes it",
    }[Policy.Approval(policy.approval)]
    how = "step by step" if policy.promotion == Policy.Promotion.CANARY else "at once"
    return f"{when} {plan_start(policy, now).in_words()} {judged}; {approved}, {how}."


def _stages(policy: Policy, filters: dict[str, Any]) -> list[Stage]:
    """Raises Problem for what the first stage would be refused for."""
    project = policy.project
    is_pipeline = policy.method in PIPELINES
    methods = find_pipeline(policy.method) if is_pipeline else (policy.method,)
    if is_pipeline:
        check_configs(methods, policy.config)
    stages = []
    for place, method in enumerate(methods):
        recipe = METHODS[method]
        config = fill_config(recipe, policy.config.get(method) if is_pipeline else policy.config)
        preview = preview_dataset(
            project=project, format=recipe.dataset_format, filters=filters_for(method, filters)
        )
        if place == 0:
            check_versions(recipe, project=project, reward=None, judged=None)
        check_preflight(recipe, config, counts_of(preview))
        foretold = estimate_run(project, config, rows=preview.rows)
        stages.append(Stage(method, preview.rows, foretold.seconds / 60 if foretold else None))
    return stages


def busy_with(policy: Policy) -> str:
    """What is under way already, or nothing: a project does one thing at a time by itself."""
    run = Run.objects.filter(project=policy.project, status__in=Run.ACTIVE).first()
    if run is not None:
        return f"run {run.number} is {run.status}."
    pipeline = Pipeline.objects.filter(project=policy.project, status=Pipeline.Status.RUNNING).first()
    return f"pipeline {pipeline.number} is under way." if pipeline is not None else ""


def _too_much(plan: Plan) -> str:
    for budget in plan.budgets:
        if not budget.allows(plan.minutes / 60):
            return (
                f"{budget.in_words()}, and it would take about {_minutes(plan.minutes)}."
                if budget.used < budget.limit
                else f"the budget is used up: {budget.in_words()}."
            )
    return ""


def _stage_in_words(stage: Stage) -> str:
    unit = METHODS[stage.method].config.unit
    return f"{_NAMES.get(stage.method, stage.method)} on {stage.rows} {unit}"


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return "a minute"
    return f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.0f} minutes"
