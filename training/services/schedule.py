"""When a policy is due: slots of its cron, and slots of so many new judgements. Reads only."""

from __future__ import annotations

from datetime import datetime, timedelta

from croniter import croniter
from django.utils import timezone

from projects.models import Project
from training.models import Dataset, Policy, Run
from training.services.waiting import waiting_judgements

# A slot that nobody was there for still runs when it is no older than this.
CATCH_UP = timedelta(hours=1)


def due_slots(policy: Policy, now: datetime) -> list[str]:
    """Names of the slots that are due, the same name for everybody who asks. Empty when none is."""
    slots = []
    if policy.cron:
        moment = last_cron_time(policy.cron, now)
        if now - moment <= CATCH_UP:
            slots.append(f"cron:{moment.isoformat()}")
    if policy.min_new_judgements:
        last = last_run(policy.project)
        if _waiting(policy, last) >= policy.min_new_judgements:
            slots.append(f"judgements:after-run-{last.number if last else 0}")
    return slots


def _waiting(policy: Policy, last: Run | None) -> int:
    """Up to as many as the policy waits for."""
    return waiting_judgements(
        policy.project,
        last.dataset.cutoff if last else None,
        policy.method,
        most=policy.min_new_judgements,
    )


def last_cron_time(cron: str, now: datetime) -> datetime:
    """The latest moment at or before `now`, in the time zone of the settings."""
    # A second later, so that a moment that is exactly now counts.
    moment: datetime = croniter(cron, timezone.localtime(now) + timedelta(seconds=1)).get_prev(datetime)
    return moment


def last_run(project: Project) -> Run | None:
    """The last that learned from judgements; runs that only score or evaluate have seen none."""
    rows = Run.objects.filter(project=project).exclude(dataset__format__in=Dataset.Gathered.values)
    return rows.select_related("dataset").first()


def next_run_in_words(policy: Policy | None, now: datetime) -> str:
    """What starts the next run, as a sentence for people."""
    if policy is None or not policy.is_enabled:
        return "No policy: a manager starts runs."
    parts = []
    if policy.cron:
        moment: datetime = croniter(policy.cron, timezone.localtime(now)).get_next(datetime)
        parts.append(f"at {moment:%Y-%m-%d %H:%M}")
    if policy.min_new_judgements:
        last = last_run(policy.project)
        missing = policy.min_new_judgements - _waiting(policy, last)
        parts.append(f"after {missing} more judgements" if missing else "now: enough judgements came")
    if not parts:
        return "The policy names neither a time nor a number of judgements."
    return "Next run " + ", or ".join(parts) + "."
