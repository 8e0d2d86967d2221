"""Questions put to raters, and one rater's lease on one.

Places are counted on the task itself: `held` leases and `done` answers change in the transaction that changes
an assignment, and the database refuses more of both than `overlap`. So a claim reads one index and counts
nothing.
"""

from __future__ import annotations

import random
from typing import Self

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from inference.models import Completion, Prompt
from projects.ids import uuid7
from projects.models import Project, User


def draw_lot() -> float:
    """A lot in [0, 1), by which a task is drawn at random."""
    return random.random()  # noqa: S311 - for fairness, not for secrecy


# What a claim looks at, and what a draw looks at. Gold is in neither: it is slipped in between.
LINE = Q(is_open=True, free__gt=0, place__isnull=False)
BACKLOG = Q(is_open=True, place=None, gold__isnull=True)


class TaskQuerySet(models.QuerySet["Task"]):
    def in_line(self) -> Self:
        """Open, drawn, and with a free place; in the order in which raters are served."""
        return self.filter(LINE).order_by("-priority", "place")

    def in_backlog(self) -> Self:
        return self.filter(BACKLOG)


class Task(models.Model):
    """A question: which of these answers is better, how good is this one, how should it read, who is right?

    A new task waits in the backlog until a strategy draws it, which gives it a `place` in the line; urgent
    and private ones get their place at birth. Raters are served by priority, then by place.
    """

    class Kind(models.TextChoices):
        COMPARE = "compare", "compare"
        RATE = "rate", "rate"
        CORRECT = "correct", "correct"
        REVIEW = "review", "review"

    class Source(models.TextChoices):
        ANSWERS = "answers", "answers at hand"
        IMPORT = "import", "imported prompts"
        LIVE = "live", "live traffic"
        GATE = "gate", "the gate's battles"
        GOLD = "gold", "gold"
        REVIEW = "review", "raters who disagree"

    class Strategy(models.TextChoices):
        RANDOM = "random", "random"
        UNCERTAIN = "uncertain", "uncertain"
        DISAGREEMENT = "disagreement", "disagreement"
        NEWEST = "newest", "newest"

    class Outcome(models.TextChoices):
        AGREED = "agreed", "agreed"
        DISPUTED = "disputed", "waits for a reviewer"
        SETTLED = "settled", "settled by a reviewer"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tasks")
    kind = models.CharField(max_length=7, choices=Kind.choices, default=Kind.COMPARE)
    source = models.CharField(max_length=7, choices=Source.choices, default=Source.ANSWERS)
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    completions = models.ManyToManyField(Completion, related_name="tasks")
    candidate_set = models.CharField(max_length=64, editable=False)
    # A prompt of somebody's own conversation is asked of that person alone.
    only_for = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    # What a review is about: the task whose raters disagree.
    disputed = models.OneToOneField(
        "self", null=True, blank=True, on_delete=models.CASCADE, related_name="review"
    )
    gold = models.JSONField(null=True, blank=True, help_text="The known answer; see services/gold.py.")

    overlap = models.PositiveSmallIntegerField(default=1, help_text="How many raters answer it.")
    held = models.PositiveSmallIntegerField(default=0, editable=False, help_text="Leases that run.")
    done = models.PositiveSmallIntegerField(default=0, editable=False)
    free = models.GeneratedField(
        expression=F("overlap") - F("held") - F("done"),
        output_field=models.SmallIntegerField(),
        db_persist=True,
    )
    is_open = models.BooleanField(default=True)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, blank=True)
    agreement = models.FloatField(
        null=True, blank=True, help_text="1: all raters said the same; 0: opposites."
    )

    priority = models.SmallIntegerField(
        default=0, help_text="Higher first: the gate's battles before the rest."
    )
    place = models.BigIntegerField(null=True, blank=True, help_text="In the line; empty in the backlog.")
    chance = models.FloatField(default=draw_lot, editable=False, help_text="Its lot, drawn at birth.")
    uncertainty = models.FloatField(default=0.0, help_text="Higher: the models know less who wins.")
    strategy = models.CharField(max_length=12, choices=Strategy.choices, blank=True)
    probability = models.FloatField(
        null=True, blank=True, help_text="With which its strategy drew it from the backlog of that moment."
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["-priority", "place", "id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "kind", "candidate_set"], name="task_asks_once"),
            models.CheckConstraint(
                condition=Q(overlap__gte=F("held") + F("done")), name="task_never_over_its_overlap"
            ),
        ]
        indexes = [
            # The line, from which a claim takes the first.
            models.Index(
                fields=["project", "-priority", "place"],
                condition=LINE,
                name="task_line",
            ),
            # The backlog in the order of each strategy.
            models.Index(
                fields=["project", "kind", "chance"],
                condition=BACKLOG,
                name="task_backlog_random",
            ),
            models.Index(
                fields=["project", "kind", "-uncertainty"],
                condition=BACKLOG,
                name="task_backlog_uncertain",
            ),
            models.Index(
                fields=["project", "kind", "-id"],
                condition=BACKLOG,
                name="task_backlog_newest",
            ),
            models.Index(
                fields=["project", "outcome", "agreement"], condition=~Q(outcome=""), name="task_by_outcome"
            ),
            models.Index(fields=["project", "is_open", "kind"], name="task_counts"),
            # The managers' list, and the gold that a claim may slip in.
            models.Index(fields=["project", "-id"], name="task_by_time"),
            models.Index(fields=["project", "-id"], condition=Q(gold__isnull=False), name="task_gold"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.prompt_id}"

    @property
    def asks(self) -> str:
        """The kind of answer that it takes: a review is answered as the task that it is about."""
        return self.disputed.kind if self.disputed is not None else self.kind


class Assignment(models.Model):
    """One rater's place at a task, with the order in which the answers were shown, and a draft."""

    class State(models.TextChoices):
        LEASED = "leased", "leased"
        DONE = "done", "done"
        SKIPPED = "skipped", "skipped"
        LAPSED = "lapsed", "lapsed"  # others may take the place; a late answer counts while it is free

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="assignments")
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="assignments")
    rater = models.ForeignKey(User, on_delete=models.CASCADE, related_name="assignments")
    state = models.CharField(max_length=7, choices=State.choices, default=State.LEASED)
    shown = models.JSONField(help_text="Completion ids, left to right, as shuffled by the server.")
    draft = models.JSONField(null=True, blank=True, help_text="What was typed so far.")
    answer = models.JSONField(null=True, blank=True, help_text="What was said, as it was sent.")
    client_id = models.UUIDField(null=True, blank=True, help_text="The submission's id, for replays.")
    seconds_spent = models.FloatField(null=True, blank=True)
    is_correct = models.BooleanField(null=True, blank=True, help_text="Of gold: whether it was met.")
    skip_reason = models.CharField(max_length=200, blank=True)
    lease_until = models.DateTimeField()
    # When it was answered or skipped: the latest one is what undo takes back.
    closed = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["task", "rater"], name="assignment_once_a_rater")]
        indexes = [
            models.Index(fields=["project", "rater", "-closed"], name="assignment_of_rater"),
            models.Index(
                fields=["project", "lease_until"], condition=Q(state="leased"), name="assignment_leases"
            ),
            models.Index(
                fields=["project", "rater"], condition=Q(is_correct__isnull=False), name="assignment_gold"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.rater}: {self.state}"
