"""A policy is changed here: checked field by field, versioned, and written down with what it was before."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from projects.errors import Conflict, Invalid, Problem
from projects.models import Project
from projects.services import Actor, record_audit
from training.models import Policy
from training.services.methods import METHODS, ROWS, check_config
from training.services.pipelines import PIPELINES, check_configs

# What may be changed, in the order in which people read it.
FIELDS = (
    "is_enabled", "cron", "min_new_judgements", "method", "config", "per_rater_cap", "per_prompt_cap",
    "day_hours", "week_hours", "asks_raters", "margin", "min_battles", "approval", "promotion",
    "canary_minutes", "canary_answers", "canary_judgements", "watch_hours",
)  # fmt: skip
# Methods that make something; scoring and evaluating teach nothing.
METHOD_NAMES = (*(name for name, method in METHODS.items() if method.makes != ROWS), *PIPELINES)


class InvalidPolicy(Invalid):
    """`fields` says by field what is wrong with it."""

    code = "invalid_policy"


class PolicyChanged(Conflict):
    """Somebody else changed it since it was read."""

    code = "policy_changed"


def policy_of(project: Project) -> Policy:
    """The project's policy, or the defaults of one that is not saved."""
    found = Policy.objects.filter(project=project).first() or Policy(project=project)
    found.project = project
    return found


def with_changes(policy: Policy, changes: dict[str, Any]) -> Policy:
    """A copy with other values, checked and not saved. Raises InvalidPolicy."""
    unknown = sorted(set(changes) - set(FIELDS))
    if unknown:
        raise InvalidPolicy(f"A policy has no {unknown[0]}.", param=unknown[0])
    copy = Policy(
        pk=policy.pk,
        project=policy.project,
        version=policy.version,
        **{name: changes.get(name, getattr(policy, name)) for name in FIELDS},
    )
    problems = check_policy(copy)
    if problems:
        name, message = next(iter(problems.items()))
        raise InvalidPolicy(message, param=name, fields=problems)
    return copy


def check_policy(policy: Policy) -> dict[str, str]:
    """Field -> what is wrong with it, in a sentence; empty when all is well."""
    problems = {}
    try:
        policy.clean_fields(exclude=["project", "method", "config"])
    except ValidationError as error:
        problems = {name: " ".join(messages) for name, messages in error.message_dict.items()}
    if policy.method not in METHOD_NAMES:
        problems["method"] = f"There is no method {policy.method}. There are: {', '.join(METHOD_NAMES)}."
    else:
        try:
            _check_config(policy)
        except Problem as problem:
            problems["config"] = problem.message
    if policy.is_enabled and not policy.cron and not policy.min_new_judgements:
        problems.setdefault("cron", "Say when: a time, or a number of new judgements.")
    if policy.day_hours and policy.week_hours and policy.day_hours > policy.week_hours:
        problems.setdefault("day_hours", "A day cannot have more hours than the week.")
    return problems


def set_policy(
    *, project: Project, changes: dict[str, Any], actor: Actor, version: int | None = None
) -> Policy:
    """Save what differs. Raises InvalidPolicy, and PolicyChanged when `version` does not stand any more."""
    with transaction.atomic():
        found = Policy.objects.select_for_update().filter(project=project).first()
        old = found or Policy(project=project)
        if version is not None and version != old.version:
            raise PolicyChanged(
                "Somebody else changed the policy meanwhile. Look at it again, then change it."
            )
        old.project = project
        new = with_changes(old, changes)
        changed = [name for name in FIELDS if getattr(new, name) != getattr(old, name)]
        if found is not None and not changed:
            return old
        new.version = old.version + 1
        new.save()
        record_audit(
            project=project,
            actor=actor,
            action="policy.set",
            subject=f"policy:{new.version}",
            detail={
                "version": new.version,
                "before": {name: getattr(old, name) for name in changed} if found else {},
                "after": {name: getattr(new, name) for name in changed},
            },
        )
    return new


def _check_config(policy: Policy) -> None:
    if not isinstance(policy.config, dict):
        raise Invalid('Write the settings as an object, such as {"epochs": 2}.')
    if policy.method in PIPELINES:
        check_configs(PIPELINES[policy.method], policy.config)
    else:
        check_config(METHODS[policy.method], policy.config)
