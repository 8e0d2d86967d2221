"""What a reward model said of an answer: read where it is chosen what to ask, and learned from by nobody."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from inference.models import Completion, Version


class Score(models.Model):
    """One answer by one reward model. Higher is better; a difference is the log odds of winning."""

    completion = models.OneToOneField(
        Completion, primary_key=True, on_delete=models.CASCADE, related_name="score"
    )
    reward = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="scores")
    value = models.FloatField()
    created = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["reward", "-created"], name="score_latest")]

    def __str__(self) -> str:
        return f"{self.value:.2f} by {self.reward_id}"
