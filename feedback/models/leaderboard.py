"""The order of a project's versions, as last measured."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from projects.models import Project


class Leaderboard(models.Model):
    """Measured by a schedule and read by pages: a million votes are counted once, not for each look."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="leaderboard")
    # sha256 of what was counted, so that the schedule sees when something changed.
    fingerprint = models.CharField(max_length=64)
    places = models.JSONField(
        default=list, help_text="See feedback/ranking.py: Place, with its answers' length."
    )
    numbers = models.JSONField(default=dict, help_text="reference, votes, raters, longer_won.")
    measured = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"leaderboard of {self.project.slug}"
