"""The four kinds of feedback, appended, superseded or retracted; and the questions put to raters."""

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


class FeedbackQuerySet(models.QuerySet[Any]):
    def usable(self) -> Self:
        """Neither retracted nor superseded."""
        return self.filter(retracted=None, superseded=None)

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
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="%(class)ss")
    # Who judged: a member, or the end user that a program names.
    rater = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.PROTECT, related_name="%(class)ss"
    )
    subject = models.CharField(max_length=200, blank=True)
    # `user:<id>` or `key:<id>:<subject>`: whose second judgement of the same thing is a conflict.
    judge = models.CharField(max_length=260, editable=False)
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    source = models.CharField(max_length=3, choices=Source.choices)
    seconds_spent = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0)])
    guideline_version = models.PositiveIntegerField(default=1)
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


STANDS = Q(retracted=None, superseded=None)


class Rating(Feedback):
    """A value for an aspect: thumbs are -1 or +1."""

    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="ratings")
    aspect = models.CharField(max_length=40, default="thumbs")
    value = models.SmallIntegerField()
    reasons = models.JSONField(default=list)
    comment = models.TextField(blank=True)

    class Meta(Feedback.Meta):
        constraints = [
            models.UniqueConstraint(
                fields=["completion", "aspect", "judge"], condition=STANDS, name="rating_stands_once"
            )
        ]
        indexes = [models.Index(fields=["project", "-created"], name="rating_by_time")]

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
        indexes = [
            models.Index(fields=["project", "-created"], name="preference_by_time"),
        ]

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
        indexes = [models.Index(fields=["project", "-created"], name="correction_by_time")]

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
        indexes = [models.Index(fields=["project", "-created"], name="flag_by_time")]

    def __str__(self) -> str:
        return self.reason


class Task(models.Model):
    """A question put to raters: which of these answers is better?"""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tasks")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    completions = models.ManyToManyField(Completion, related_name="tasks")
    candidate_set = models.CharField(max_length=64, editable=False)
    overlap = models.PositiveSmallIntegerField(default=1, help_text="How many raters answer it.")
    done = models.PositiveSmallIntegerField(default=0)
    priority = models.SmallIntegerField(
        default=0, help_text="Higher first: the gate's battles before the rest."
    )
    is_open = models.BooleanField(default=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-priority", "id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "candidate_set"], name="task_asks_once"),
        ]
        indexes = [
            models.Index(
                fields=["project", "-priority", "id"], condition=Q(is_open=True), name="task_open_in_order"
            )
        ]

    def __str__(self) -> str:
        return f"compare {self.prompt_id}"


class Assignment(models.Model):
    """One rater's lease on a task, with the order in which the answers were shown."""

    class State(models.TextChoices):
        LEASED = "leased", "leased"
        DONE = "done", "done"
        SKIPPED = "skipped", "skipped"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="assignments")
    rater = models.ForeignKey(User, on_delete=models.CASCADE, related_name="assignments")
    state = models.CharField(max_length=7, choices=State.choices, default=State.LEASED)
    shown = models.JSONField(help_text="Completion ids, left to right, as shuffled by the server.")
    preference = models.ForeignKey(
        Preference, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    skip_reason = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField()
    # When it was answered or skipped: the latest one is what undo takes back.
    closed = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["task", "rater"], name="assignment_once_a_rater")]
        indexes = [models.Index(fields=["rater", "-closed"], name="assignment_of_rater")]

    def __str__(self) -> str:
        return f"{self.rater}: {self.state}"


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
