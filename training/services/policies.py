"""Runs that start by themselves: a slot is a name, and a name runs once."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from feedback.counts import judgements_that_stand
from feedback.models import RaterEvent
from inference.models import Version
from projects.errors import Invalid, Problem
from projects.models import Project
from projects.services import SYSTEM, record_audit, was_recorded
from training.models import Evaluation, Pipeline, Policy, Run
from training.services.evaluations import hold_candidate, insert_evaluation
from training.services.pipelines import PIPELINES, filters_for, start_pipeline
from training.services.plans import Plan, busy_with, plan_start
from training.services.runs import SlotTaken, create_run
from training.services.schedule import due_slots

logger = logging.getLogger(__name__)


def tick_policies(*, now: datetime | None = None) -> list[Run]:
    """Start the runs that are due, evaluate what earlier ones made. Returns the runs that this call began."""
    now = now or timezone.now()
    started = []
    for policy in Policy.objects.filter(is_enabled=True).select_related("project"):
        try:
            evaluate_finished(policy.project)
            run = start_due(policy, now)
        except Problem as error:
            logger.warning("%s: %s", policy, error.message)
            continue
        if run is not None:
            started.append(run)
    return started


def start_due(policy: Policy, now: datetime) -> Run | None:
    """The run of the first slot that is due; None while another one is active, or when nothing is due.

    What starts is what the policy's dry run says (services/plans.py). A slot that cannot start is skipped
    with an audit event that says why, and tried again when there are more judgements; one without a budget,
    each hour.
    """
    if busy_with(policy):
        return None
    for slot in due_slots(policy, now):
        if _is_started(policy.project, slot):
            continue
        attempt = f"{slot}/{_evidence(policy.project)}"
        this_hour = f"{attempt}@{now:%Y-%m-%dT%H}"
        if any(
            was_recorded(project=policy.project, action="policy.skipped", subject=name)
            for name in (attempt, this_hour)
        ):
            continue
        plan = plan_start(policy, now)
        if plan.problem:
            subject = this_hour if plan.is_over_budget else attempt
            _note(policy.project, "policy.skipped", subject, plan.problem)
            continue
        try:
            return _start(policy, plan, slot)
        except SlotTaken:
            continue
        except Invalid as error:  # it changed since the plan
            _note(policy.project, "policy.skipped", attempt, error.message)
    return None


def _evidence(project: Project) -> str:
    """Another text after every judgement that came and every word about a rater."""
    judgements = sum(judgements_that_stand(project).values())
    return f"{judgements}.{RaterEvent.objects.filter(project=project).count()}"


def _start(policy: Policy, plan: Plan, slot: str) -> Run | None:
    wanted: dict[str, Any] = {"project": policy.project, "actor": SYSTEM, "slot": slot}
    if policy.method in PIPELINES:
        pipeline = start_pipeline(name=policy.method, configs=policy.config, filters=plan.filters, **wanted)
        return pipeline.runs.first()
    return create_run(
        method=policy.method,
        config=policy.config,
        filters=filters_for(policy.method, plan.filters),
        **wanted,
    )


def _is_started(project: Project, slot: str) -> bool:
    return (
        Run.objects.filter(project=project, slot=slot).exists()
        or Pipeline.objects.filter(project=project, slot=slot).exists()
    )


def evaluate_finished(project: Project) -> Evaluation | None:
    """An evaluation for the last version that a policy's run made, when there is none yet."""
    with transaction.atomic():
        # The lock makes of two beats one after the other: the second sees the first one's evaluation.
        run = (
            Run.objects.select_for_update(of=("self",))
            .filter(
                Q(slot__isnull=False) | Q(pipeline__slot__isnull=False),
                project=project,
                status=Run.Status.FINISHED,
                version__isnull=False,
            )
            .exclude(version__kind=Version.Kind.REWARD)  # a stage: it writes no answers
            # What a pipeline makes on the way is no candidate; what it ends with is.
            .filter(Q(pipeline__isnull=True) | Q(pipeline__status=Pipeline.Status.FINISHED))
            .select_related("version__project")
            .first()
        )
        if run is None or run.version is None or run.version.evaluations.exists():
            return None
        subject = f"run:{run.number}"
        if was_recorded(project=project, action="evaluation.skipped", subject=subject):
            return None
        try:
            evaluation = insert_evaluation(
                project=project, candidate=run.version, champion=None, sample=True, actor=SYSTEM
            )
        except Problem as error:
            _note(project, "evaluation.skipped", subject, error.message)
            return None
    hold_candidate(evaluation)
    return evaluation


def _note(project: Project, action: str, subject: str, message: str) -> None:
    record_audit(project=project, actor=SYSTEM, action=action, subject=subject, detail={"message": message})
