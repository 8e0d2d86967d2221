"""How far a rater's word is trusted: dated events, where they lead to now, and what was measured."""

from __future__ import annotations

from datetime import date, datetime
from typing import Self

from django.db import models
from django.db.models import Q
from django.utils import timezone

from projects.ids import uuid7
from projects.models import Project, User


class Standing(models.Model):
    """One rater in one project. Its row is locked by whatever this rater does, so two windows take turns."""

    class Status(models.TextChoices):
        NEW = "new", "not qualified yet"
        QUALIFIED = "qualified", "qualified"
        WATCHED = "watched", "watched"
        QUARANTINED = "quarantined", "quarantined"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="standings")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="standings")
    # Where the events lead to; the events are the truth.
    status = models.CharField(max_length=11, choices=Status.choices, default=Status.NEW)
    weight = models.FloatField(default=1.0)
    reason = models.CharField(max_length=300, blank=True, help_text="Why, in words.")
    # Today's answers, against the cap.
    day = models.DateField(null=True, blank=True)
    answered = models.PositiveIntegerField(default=0, help_text="On that day.")
    # Measured by a schedule: see services/quality.py for the keys.
    numbers = models.JSONField(default=dict)
    measured = models.DateTimeField(null=True, blank=True)
    guidelines_read = models.PositiveIntegerField(default=0, help_text="The edition that was confirmed.")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="standing_once"),
            models.CheckConstraint(
                condition=Q(weight__gte=0) & Q(weight__lte=1), name="standing_weight_is_a_share"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.status}"

    def answered_on(self, day: date) -> int:
        return self.answered if self.day == day else 0


class RaterEventQuerySet(models.QuerySet["RaterEvent"]):
    def as_of(self, cutoff: datetime) -> Self:
        return self.filter(created__lte=cutoff)


class RaterEvent(models.Model):
    """What changed about a rater, when, by whom and why. Appended only."""

    class Kind(models.TextChoices):
        QUALIFIED = "qualified", "qualified"
        FAILED = "failed", "did not qualify"
        WATCHED = "watched", "watched"
        QUARANTINED = "quarantined", "quarantined"
        RESTORED = "restored", "restored"
        WEIGHT = "weight", "weight"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rater_events")
    rater = models.ForeignKey(User, on_delete=models.CASCADE, related_name="rater_events")
    kind = models.CharField(max_length=11, choices=Kind.choices)
    weight = models.FloatField(null=True, blank=True, help_text="The new weight, of a weight event.")
    reason = models.CharField(max_length=300)
    user = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", help_text="Empty: Ratchet."
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = RaterEventQuerySet.as_manager()

    class Meta:
        ordering = ["-created", "-id"]
        indexes = [models.Index(fields=["project", "rater", "created"], name="rater_event_by_time")]

    def __str__(self) -> str:
        return f"{self.rater}: {self.kind}"


class Agreement(models.Model):
    """Krippendorff's alpha of a project's raters, by kind of task and aspect, as last measured."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="agreements")
    kind = models.CharField(max_length=7)
    aspect = models.CharField(max_length=40, blank=True)
    alpha = models.FloatField(null=True, help_text="Empty where nothing can be said yet.")
    low = models.FloatField(null=True)
    high = models.FloatField(null=True)
    units = models.PositiveIntegerField(default=0, help_text="Things that two or more judged.")
    raters = models.PositiveIntegerField(default=0)
    judgements = models.PositiveIntegerField(default=0)
    measured = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["kind", "aspect"]
        constraints = [models.UniqueConstraint(fields=["project", "kind", "aspect"], name="agreement_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.aspect}: {self.alpha}"
