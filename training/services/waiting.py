"""Judgements that no dataset has seen yet."""

from __future__ import annotations

from datetime import datetime

from feedback.models import Correction, Preference
from inference.models import Prompt
from projects.models import Project


def waiting_judgements(project: Project, since: datetime | None) -> int:
    """Usable preferences and corrections on training prompts that came after `since`."""
    preferences = Preference.objects.usable().filter(project=project, prompt__split=Prompt.Split.TRAIN)
    corrections = Correction.objects.usable().filter(
        project=project, completion__prompt__split=Prompt.Split.TRAIN
    )
    if since is not None:
        preferences = preferences.filter(created__gt=since)
        corrections = corrections.filter(created__gt=since)
    return preferences.count() + corrections.count()
