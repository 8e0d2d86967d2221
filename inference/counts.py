"""What is kept by hour of prompts and answers (projects/services/hourly.py)."""

from __future__ import annotations

from django.db.models import Count, Q, QuerySet, Sum

from inference.models import Completion, Prompt
from projects.models import Project
from projects.services.hourly import Series

_WENT_WELL = ~Q(state=Completion.State.FAILED)


def ended_answers(project: Project) -> QuerySet[Completion]:
    """Of our own versions. Those made elsewhere have no times."""
    found = Completion.objects.filter(project=project, version__isnull=False)
    return found.exclude(state=Completion.State.RUNNING)


def _running(project: Project) -> QuerySet[Completion]:
    return Completion.objects.filter(project=project, state=Completion.State.RUNNING)


# A prompt's split is fixed at its birth, and its row stays when its text is erased.
PROMPTS = Series("prompts", lambda project: Prompt.objects.filter(project=project), label="split")
# Of its own versions, an answer that ended stays as it is but for its text.
ANSWERS = Series(
    "answers",
    ended_answers,
    label="version_label",
    measures={
        "count": Count("pk"),
        "failed": Count("pk", filter=~_WENT_WELL),
        "tokens": Sum("tokens_out"),
        "waited_ms": Sum("ttft_ms", filter=_WENT_WELL),
        "timed": Count("ttft_ms", filter=_WENT_WELL),
    },
    pending=_running,
)
