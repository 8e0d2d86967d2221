"""Two live answers to one question, and a vote."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from feedback.models.judgements import Preference
from inference.models import Completion
from projects.ids import uuid7
from projects.models import Project, User


class Battle(models.Model):
    """One person's question with two live answers, shown without their versions' names until the vote.

    A vote may come before both answers have ended. It is kept here, and becomes the preference then.
    """

    class Verdict(models.TextChoices):
        LEFT = "left", "left"
        RIGHT = "right", "right"
        TIE = "tie", "same"
        BOTH_BAD = "both_bad", "both bad"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="battles")
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="battles")
    # As shuffled by the server.
    left = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="+")
    right = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="+")
    verdict = models.CharField(max_length=8, choices=Verdict.choices, blank=True)
    # The preference's id, given before it is recorded, so that recording twice is a replay.
    vote_id = models.UUIDField(default=uuid7, editable=False)
    preference = models.ForeignKey(
        Preference, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["id"], condition=Q(preference=None) & ~Q(verdict=""), name="battle_vote_waits"
            ),
        ]

    def __str__(self) -> str:
        return f"battle {self.pk}"
