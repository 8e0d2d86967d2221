"""The four kinds of feedback, appended, superseded or retracted."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from inference.models import Completion, Prompt
from projects.ids import uuid7
from projects.models import ApiKey, Project, User

STANDS = Q(retracted=None, superseded=None)
TAKEN_BACK = Q(retracted__isnull=False) | Q(superseded__isnull=False)


class FeedbackQuerySet(models.QuerySet[Any]):
    def usable(self) -> Self:
        """Neither retracted nor superseded."""
        return self.filter(STANDS)

    def before(self, cutoff: datetime) -> Self:
        """As it stood at the cut-off: made by then, and not yet retracted or superseded then.

        A later supersession or retraction does not change an older dataset.
        """
        return self.filter(
            Q(retracted=None) | Q(retracted__gt=cutoff),
            Q(superseded=None) | Q(superseded__gt=cutoff),
            created__lte=cutoff,
        )


class Feedback(models.Model):
    """What the four kinds share."""

    class Source(models.TextChoices):
        UI = "ui", "page"
        API = "api", "API"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="%(class)ss",
        db_index=False,  # it leads the index of time of each kind
    )
    # Who judged: a member, or the end user that a program names.
    rater = models.ForeignKey(
        User,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="%(class)ss",
        db_index=False,  # it leads an index of each kind
    )
    subject = models.CharField(max_length=200, blank=True)
    # `user:<id>` or `key:<id>:<subject>`: whose second judgement of the same thing is a conflict.
    judge = models.CharField(max_length=260, editable=False)
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    source = models.CharField(max_length=3, choices=Source.choices)
    seconds_spent = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0)])
    guideline_version = models.PositiveIntegerField(default=1)
    # The place in the queue where it was asked for; empty for what came by itself.
    assignment = models.ForeignKey(
        "feedback.Assignment",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="%(class)ss",
        db_index=False,  # most rows have none: see the partial index of each kind
    )
    body_digest = models.CharField(
        max_length=64, editable=False, help_text="sha256 of the request, for replays."
    )
    created = models.DateTimeField(default=timezone.now, editable=False)
    supersedes = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    superseded = models.DateTimeField(null=True, blank=True, editable=False)
    retracted = models.DateTimeField(null=True, blank=True, editable=False)

    objects = FeedbackQuerySet.as_manager()

    class Meta:
        abstract = True
        ordering = ["-id"]

    @property
    def is_usable(self) -> bool:
        return self.retracted is None and self.superseded is None


def _indexes(kind: str) -> list[models.Index]:
    """The log, and what it may be asked for. The partial ones cost nothing where they do not apply."""
    return [
        models.Index(fields=["project", "-created"], name=f"{kind}_by_time"),
        models.Index(
            fields=["rater", "project", "-created"], condition=Q(rater__isnull=False), name=f"{kind}_of_rater"
        ),
        models.Index(
            fields=["project", "subject", "-created"], condition=~Q(subject=""), name=f"{kind}_of_subject"
        ),
        # Rare among what programs send; who has both asks for the pages' alone.
        models.Index(fields=["project", "-created"], condition=Q(source="ui"), name=f"{kind}_from_pages"),
        models.Index(fields=["project", "created"], condition=TAKEN_BACK, name=f"{kind}_taken_back"),
        models.Index(
            fields=["assignment"], condition=Q(assignment__isnull=False), name=f"{kind}_of_assignment"
        ),
    ]


FINAL = "A reviewer's word where raters disagreed: a dataset takes it instead of theirs."


class Rating(Feedback):
    """A value for an aspect: thumbs are -1 or +1."""

    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="ratings")
    aspect = models.CharField(max_length=40, default="thumbs")
    value = models.SmallIntegerField()
    reasons = models.JSONField(default=list)
    comment = models.TextField(blank=True)
    is_final = models.BooleanField(default=False, help_text=FINAL)

    class Meta(Feedback.Meta):
        constraints = [
            models.UniqueConstraint(
                fields=["completion", "aspect", "judge"], condition=STANDS, name="rating_stands_once"
            )
        ]
        indexes = _indexes("rating")

    def __str__(self) -> str:
        return f"{self.aspect} {self.value:+d}"


class Preference(Feedback):
    """An order among the candidates of one prompt, or the word that all are bad."""

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="preferences")
    # sha256 of the sorted candidate ids: the same comparison whatever the order shown.
    candidate_set = models.CharField(max_length=64, editable=False)
    all_bad = models.BooleanField(default=False)
    strength = models.PositiveSmallIntegerField(null=True, blank=True, help_text="1 slight to 3 strong.")
    comment = models.TextField(blank=True)
    is_final = models.BooleanField(default=False, help_text=FINAL)

    class Meta(Feedback.Meta):
        constraints = [
            models.UniqueConstraint(
                fields=["candidate_set", "judge"], condition=STANDS, name="preference_stands_once"
            ),
            models.CheckConstraint(
                condition=Q(strength=None) | Q(strength__gte=1, strength__lte=3),
                name="preference_strength_1_to_3",
            ),
        ]
        indexes = _indexes("preference")

    def __str__(self) -> str:
        return "all bad" if self.all_bad else f"preference on {self.prompt_id}"


class Candidate(models.Model):
    """One side of a preference: where it was shown and how it ranked (1 is best, equal ranks tie)."""

    preference = models.ForeignKey(Preference, on_delete=models.CASCADE, related_name="candidates")
    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="candidacies")
    position = models.PositiveSmallIntegerField(help_text="0 is the left or first one shown.")
    rank = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Empty when all are bad.")

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["preference", "completion"], name="candidate_once"),
            models.UniqueConstraint(fields=["preference", "position"], name="candidate_position_once"),
        ]

    def __str__(self) -> str:
        return f"position {self.position}, rank {self.rank}"


class Correction(Feedback):
    """The full better text."""

    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="corrections")
    text = models.TextField()

    class Meta(Feedback.Meta):
        constraints = [
            models.UniqueConstraint(
                fields=["completion", "judge"], condition=STANDS, name="correction_stands_once"
            )
        ]
        indexes = _indexes("correction")

    def __str__(self) -> str:
        return self.text[:60]


class Flag(Feedback):
    """A reason to look at an answer; never training data by itself."""

    class Reason(models.TextChoices):
        UNSAFE = "unsafe", "unsafe"
        PRIVATE = "private", "private"
        SPAM = "spam", "spam"
        BROKEN = "broken", "broken"

    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="flags")
    reason = models.CharField(max_length=10, choices=Reason.choices)
    comment = models.TextField(blank=True)

    class Meta(Feedback.Meta):
        constraints = [
            models.UniqueConstraint(
                fields=["completion", "reason", "judge"], condition=STANDS, name="flag_stands_once"
            )
        ]
        indexes = _indexes("flag")

    def __str__(self) -> str:
        return self.reason
