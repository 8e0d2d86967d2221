"""Answers that flags set aside: nobody is asked about them, and no dataset takes them."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from django.db import models
from django.db.models import Q
from django.utils import timezone

from inference.models import Completion
from projects.ids import uuid7
from projects.models import Project, User


class SetAsideQuerySet(models.QuerySet["SetAside"]):
    def standing(self) -> Self:
        return self.filter(released=None)

    def as_of(self, cutoff: datetime) -> Self:
        """What was set aside at this moment, whatever became of it later."""
        return self.filter(Q(released=None) | Q(released__gt=cutoff), created__lte=cutoff)


class SetAside(models.Model):
    """From when to when an answer was out of use; `Completion.quarantined` is the present.

    Appended, and closed once. What it was set aside for is in the flags.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="set_asides",
        db_index=False,  # it leads the index of time
    )
    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="set_asides")
    closed_tasks = models.JSONField(default=list, help_text="Ids of tasks that a release opens again.")
    created = models.DateTimeField(default=timezone.now, editable=False)
    released = models.DateTimeField(null=True, blank=True)
    is_overruled = models.BooleanField(
        default=False, help_text="Somebody released it: flags from before count no more."
    )
    released_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    objects = SetAsideQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["completion"], condition=Q(released=None), name="set_aside_stands_once"
            )
        ]
        indexes = [models.Index(fields=["project", "-id"], name="set_aside_by_time")]

    def __str__(self) -> str:
        return f"{self.completion_id}: {'set aside' if self.released is None else 'released'}"
