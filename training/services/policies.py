"""Runs that start by themselves: a slot is a name, and a name runs once."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from projects.errors import Invalid, Problem
from projects.models import AuditEvent, Project
from projects.services import SYSTEM, record_audit
from training.models import Evaluation, Policy, Run
from training.services.evaluations import hold_candidate, insert_evaluation
from training.services.runs import SlotTaken, create_run
from training.services.schedule import due_slots
from training.services.waiting import waiting_judgements

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

    A slot whose run cannot start (too few pairs) is skipped with an audit event that says why, and not tried
    again before there are more judgements.
    """
    if Run.objects.filter(project=policy.project, status__in=Run.ACTIVE).exists():
        return None
    for slot in due_slots(policy, now):
        attempt = f"{slot}/{waiting_judgements(policy.project, None)}"
        if _was_noted(policy.project, "policy.skipped", attempt):
            continue
        try:
            return create_run(
                project=policy.project, method=policy.method, config=policy.config, actor=SYSTEM, slot=slot
            )
        except SlotTaken:
            continue
        except Invalid as error:
            _note(policy.project, "policy.skipped", attempt, error.message)
    return None


def evaluate_finished(project: Project) -> Evaluation | None:
    """An evaluation for the last version that a policy's run made, when there is none yet."""
    with transaction.atomic():
        # The lock makes of two beats one after the other: the second sees the first one's evaluation.
        run = (
            Run.objects.select_for_update(of=("self",))
            .filter(project=project, slot__isnull=False, status=Run.Status.FINISHED, version__isnull=False)
            .select_related("version__project")
            .first()
        )
        if run is None or run.version is None or run.version.evaluations.exists():
            return None
        subject = f"run:{run.number}"
        if _was_noted(project, "evaluation.skipped", subject):
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


def _was_noted(project: Project, action: str, subject: str) -> bool:
    return AuditEvent.objects.filter(project=project, action=action, subject=subject).exists()
