"""A wish for answers to imported prompts by chosen versions, which become comparisons."""

from __future__ import annotations

from typing import Self
from uuid import UUID

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from projects.ids import uuid7
from projects.models import Project, User


class SampleRequestQuerySet(models.QuerySet["SampleRequest"]):
    def active(self) -> Self:
        """The oldest first."""
        return self.filter(status=SampleRequest.Status.RUNNING).order_by("id")

    def prompts_in_hand(self) -> set[UUID]:
        """Prompts of which some answers are there and others are being made."""
        return {UUID(prompt) for batch in self.active().values_list("batch", flat=True) for prompt in batch}


class SampleRequest(models.Model):
    """Which prompts, answered by whom how often, and how far it is. See services/samples.py."""

    class Status(models.TextChoices):
        RUNNING = "running", "running"
        FINISHED = "finished", "finished"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="sample_requests")
    versions = models.JSONField(help_text="Numbers of the versions that answer.")
    samples = models.PositiveSmallIntegerField(default=1, help_text="Answers a version and prompt.")
    sampling = models.JSONField(help_text="temperature and max_tokens, as the project's when it was asked.")
    tags = models.JSONField(default=list, help_text="Prompts that carry one of these; empty: all.")
    overlap = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Raters a comparison.")
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.RUNNING)
    message = models.CharField(max_length=500, blank=True, help_text="Why it waits or failed, in words.")
    # Prompts are taken in the order of their ids: those up to `cursor` are done, `batch` is in hand.
    cursor = models.UUIDField(null=True, blank=True, editable=False)
    batch = models.JSONField(default=list, editable=False)
    prompts = models.PositiveIntegerField(help_text="To answer in all.")
    done = models.PositiveIntegerField(default=0)
    tasks = models.PositiveIntegerField(default=0, help_text="Comparisons that were made of them.")
    alike = models.PositiveIntegerField(default=0, help_text="Prompts whose answers are all the same.")
    refused = models.PositiveIntegerField(default=0, help_text="Prompts that the engine would not answer.")
    refusals = models.JSONField(default=list, editable=False, help_text="Of the batch in hand.")
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    finished = models.DateTimeField(null=True, blank=True)

    objects = SampleRequestQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(done__lte=F("prompts")), name="sample_within_prompts")
        ]
        indexes = [
            models.Index(fields=["project"], condition=Q(status="running"), name="sample_running"),
        ]

    def __str__(self) -> str:
        return f"{self.done} of {self.prompts} prompts by {', '.join(self.labels)}"

    @property
    def labels(self) -> list[str]:
        return [f"{self.project.slug}@v{number}" for number in self.versions]

    @property
    def candidates(self) -> int:
        """Answers a prompt."""
        return len(self.versions) * self.samples
