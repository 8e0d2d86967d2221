"""How a project asks its raters: what is drawn next, how many see it, and what a rater must show first."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from feedback.models.tasks import Task
from projects.models import Project

_share = [MinValueValidator(0.0), MaxValueValidator(1.0)]


def default_weights() -> dict[str, float]:
    """Everything at random: unbiased, until a manager wants more from each label."""
    return {"random": 1.0}


class Workbench(models.Model):
    """One row a project, made when it is first needed. Managers change settings; draws keep the counters."""

    project = models.OneToOneField(
        Project, primary_key=True, on_delete=models.CASCADE, related_name="workbench"
    )
    # What to ask
    weights = models.JSONField(default=default_weights, help_text="Strategy -> share of what is drawn.")
    random_share = models.FloatField(
        default=0.1,
        validators=_share,
        help_text="Always drawn at random, so that measurement stays unbiased.",
    )
    overlap = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="Raters a task, where nothing else is said."
    )
    live_share = models.FloatField(
        default=0.0, validators=_share, help_text="Share of live answers that become tasks."
    )
    live_kind = models.CharField(max_length=7, choices=Task.Kind.choices, default=Task.Kind.RATE)
    samples_conversations = models.BooleanField(
        default=False, help_text="Live traffic includes chats here, but for those who opted out."
    )
    # Who is asked
    daily_cap = models.PositiveIntegerField(default=0, help_text="Answers a rater a day; 0 is no cap.")
    gold_share = models.FloatField(default=0.0, validators=_share, help_text="Gold hidden in the stream.")
    qualification_tasks = models.PositiveSmallIntegerField(
        default=0, help_text="Gold tasks before the first real one; 0 asks for none."
    )
    qualification_accuracy = models.FloatField(default=0.8, validators=_share)
    # What is looked at
    min_seconds = models.FloatField(
        default=1.5, validators=[MinValueValidator(0.0)], help_text="A faster answer is too fast."
    )
    reviews_disputes = models.BooleanField(default=True, help_text="Raters who disagree go to a reviewer.")
    review_below = models.FloatField(
        default=0.5, validators=_share, help_text="Agreement under which a task is disputed."
    )
    flag_raters = models.PositiveSmallIntegerField(
        default=2, help_text="Who flag it and set an answer aside; 0: a reviewer alone does."
    )
    # Counters of the draw
    next_place = models.BigIntegerField(default=1, editable=False)
    swept = models.DateTimeField(null=True, blank=True, editable=False, help_text="Answers looked at so far.")

    uncertainty_of = models.CharField(
        max_length=64, blank=True, editable=False, help_text="sha256 of what `uncertainty` was measured from."
    )

    class Meta:
        verbose_name_plural = "workbenches"

    def __str__(self) -> str:
        return f"workbench of {self.project_id}"


class OptOut(models.Model):
    """A program's end user whose answers are never put to raters."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="opt_outs")
    subject = models.CharField(max_length=200)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "subject"], name="opt_out_once"),
            models.CheckConstraint(condition=~Q(subject=""), name="opt_out_names_somebody"),
        ]

    def __str__(self) -> str:
        return self.subject
