"""What is asked, what is answered, by which version, and what serves."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from inference.artifact import canonical_json
from projects.ids import uuid7
from projects.models import ApiKey, Project, User


class Conversation(models.Model):
    """What one person sees in the sidebar of the chat page."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="conversations")
    owner = models.ForeignKey(User, on_delete=models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=120, blank=True)
    # The question or answer that is shown last, where there are several to go on from. No foreign key: it is
    # a hint, and without it the newest of everything is shown.
    head = models.UUIDField(null=True, blank=True, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)
    updated = models.DateTimeField(default=timezone.now)
    opted_out = models.BooleanField(default=False, help_text="Its answers are never sampled for raters.")
    # Gone from its owner's list. What was judged in it stays until the person is erased.
    deleted = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-updated"]
        indexes = [
            models.Index(
                fields=["owner", "project", "-updated"],
                condition=Q(deleted=None),
                name="conversation_sidebar",
            )
        ]

    def __str__(self) -> str:
        return self.title or "New conversation"


class PromptQuerySet(models.QuerySet["Prompt"]):
    def held_out(self) -> PromptQuerySet:
        """What nothing may learn from."""
        return self.filter(split__in=Prompt.HELD_OUT)

    def for_training(self) -> PromptQuerySet:
        return self.filter(split=Prompt.Split.TRAIN)


class Prompt(models.Model):
    """The messages up to an answer, frozen. Its split is fixed at birth."""

    class Split(models.TextChoices):
        TRAIN = "train", "train"
        GATE = "gate", "gate"  # some of them are asked of every candidate and its champion
        AUDIT = "audit", "audit"  # picked by somebody: all of them are asked each time, and judged apart

    HELD_OUT = (Split.GATE, Split.AUDIT)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="prompts",
        db_index=False,  # it leads the index of time
    )
    conversation = models.ForeignKey(
        Conversation, null=True, blank=True, on_delete=models.CASCADE, related_name="prompts"
    )
    parent = models.ForeignKey(
        "Completion", null=True, blank=True, on_delete=models.CASCADE, related_name="followups"
    )
    messages = models.JSONField(help_text='[{"role", "content"}, ...], the last one the user\'s.')
    digest = models.CharField(max_length=64, editable=False, help_text="sha256 of the messages.")
    split = models.CharField(max_length=5, choices=Split.choices, editable=False)
    external_id = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 - unique where given
    tags = models.JSONField(default=list)
    # When its person was erased: a tombstone stands in place of its text and of the answers to it.
    erased = models.DateTimeField(null=True, blank=True, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    objects = PromptQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            # The same question asked by programs is one prompt, so that answers to it can be compared.
            models.UniqueConstraint(
                fields=["project", "digest"], condition=Q(conversation=None), name="prompt_once_a_project"
            ),
            models.UniqueConstraint(
                fields=["project", "external_id"],
                condition=Q(external_id__isnull=False),
                name="prompt_external_id_once",
            ),
        ]
        indexes = [
            models.Index(fields=["project", "split", "-id"], name="prompt_by_split"),
            models.Index(fields=["project", "-created"], name="prompt_by_time"),
            models.Index(fields=["conversation", "created"], name="prompt_in_conversation"),
        ]

    def __str__(self) -> str:
        return self.question[:80]

    @property
    def question(self) -> str:
        """The text of the last message, which is what a rater reads first."""
        return str(self.messages[-1]["content"]) if self.messages else ""

    @staticmethod
    def digest_of(messages: list[dict[str, Any]]) -> str:
        return hashlib.sha256(canonical_json(messages)).hexdigest()


class CompletionQuerySet(models.QuerySet["Completion"]):
    def judgeable(self) -> CompletionQuerySet:
        """Finished and stopped answers that nobody quarantined."""
        return self.filter(state__in=Completion.JUDGEABLE, quarantined=False)


class Completion(models.Model):
    """One answer to one prompt by one version; immutable once it is not running."""

    class State(models.TextChoices):
        RUNNING = "running", "running"
        FINISHED = "finished", "finished"
        STOPPED = "stopped", "stopped"
        FAILED = "failed", "failed"

    JUDGEABLE = (State.FINISHED, State.STOPPED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="completions",
        db_index=False,  # it leads the index of time
    )
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="completions")
    version = models.ForeignKey(
        "Version", null=True, blank=True, on_delete=models.PROTECT, related_name="completions"
    )
    version_label = models.CharField(
        max_length=100, blank=True, help_text="slug@vN, or what made it elsewhere."
    )
    digest = models.CharField(max_length=80, blank=True, help_text="Of the version's weights.")
    index = models.PositiveSmallIntegerField(default=0, help_text="Which of the n choices of its request.")
    text = models.TextField(blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    finish_reason = models.CharField(max_length=20, blank=True)
    error = models.CharField(max_length=300, blank=True)
    sampling = models.JSONField(default=dict, help_text="temperature, top_p, max_tokens, seed, stop as used.")
    subject = models.CharField(max_length=200, blank=True, help_text="The end user that a program names.")
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    quarantined = models.BooleanField(default=False)
    opted_out = models.BooleanField(default=False, help_text="Never sampled for raters: `store` was false.")
    tokens_in = models.PositiveIntegerField(null=True, blank=True)
    tokens_out = models.PositiveIntegerField(null=True, blank=True)
    # Milliseconds, measured where the answer leaves us.
    ttft_ms = models.FloatField(null=True, blank=True)
    gap_mean_ms = models.FloatField(null=True, blank=True)
    gap_p99_ms = models.FloatField(null=True, blank=True)
    total_ms = models.FloatField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)
    # While it runs: the last sign of the process that makes it, which then writes down the text so far too.
    touched = models.DateTimeField(default=timezone.now, editable=False)
    # Another process was asked to stop it; the one that makes it looks here.
    stop_asked = models.BooleanField(default=False, editable=False)
    # When another process last served somebody this row while it runs; the one that makes it looks here.
    read = models.DateTimeField(null=True, blank=True, editable=False)
    finished = models.DateTimeField(null=True, blank=True)

    objects = CompletionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["prompt", "version"], name="completion_of_prompt"),
            models.Index(fields=["project", "-created"], name="completion_by_time"),
            models.Index(fields=["touched"], condition=Q(state="running"), name="completion_running"),
            models.Index(
                fields=["id"], condition=Q(state="running", stop_asked=True), name="completion_to_stop"
            ),
            models.Index(
                fields=["project", "finished"], condition=Q(state="finished"), name="completion_ended"
            ),
            # The few that a list by state would look for among all.
            models.Index(
                fields=["project", "state", "-id"],
                condition=Q(state__in=["failed", "stopped"]),
                name="completion_unfinished",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version_label}: {self.text[:60]}"

    @property
    def is_judgeable(self) -> bool:
        return self.state in self.JUDGEABLE and not self.quarantined


class Version(models.Model):
    """A named artefact. `v7` is never overwritten. A served version is the base plus at most one adapter."""

    class Kind(models.TextChoices):
        BASE = "base", "base"
        ADAPTER = "adapter", "adapter"
        REWARD = "reward", "reward model"

    class Status(models.TextChoices):
        AVAILABLE = "available", "available"
        DAMAGED = "damaged", "damaged"
        ERASED = "erased", "erased"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=8, choices=Kind.choices)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.AVAILABLE)
    path = models.CharField(max_length=300, blank=True, help_text="Under ARTIFACTS_DIR; empty for the base.")
    digest = models.CharField(max_length=80)
    manifest = models.JSONField(default=dict)
    # True while an evaluation needs the engine to hold it.
    is_candidate = models.BooleanField(default=False)
    # Somebody samples from it: the engines hold it until then, and who samples says so again.
    held_until = models.DateTimeField(null=True, blank=True, editable=False)
    erased_behind = models.PositiveIntegerField(
        default=0, help_text="Judgements and prompts that it learned from and whose person was erased since."
    )
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="version_number_once")]

    def __str__(self) -> str:
        return self.label

    @property
    def label(self) -> str:
        """`slug@vN`, the name that programs and people use."""
        return f"{self.project.slug}@v{self.number}"

    @property
    def engine_name(self) -> str:
        """The name under which an engine serves it."""
        if self.kind == self.Kind.BASE:
            return str(settings.ENGINE_SERVED_NAME)
        return f"{self.project.slug}-v{self.number}"

    @property
    def folder(self) -> Path:
        return Path(settings.ARTIFACTS_DIR) / self.path


class Deployment(models.Model):
    """What serves a project: append-only, the current one has the highest number."""

    class Kind(models.TextChoices):
        FIRST = "first", "first"
        PROMOTE = "promote", "promotion"
        CANARY = "canary", "canary"
        ROLLBACK = "rollback", "rollback"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="deployments")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=8, choices=Kind.choices)
    champion = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="+")
    canary = models.ForeignKey(Version, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    canary_share = models.FloatField(default=0.0)
    # The way back: the champion before this one, kept loaded.
    previous = models.ForeignKey(Version, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    reason = models.TextField(blank=True)
    detail = models.JSONField(default=dict, help_text="load_ms, probe and evaluation numbers.")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-number"]
        constraints = [
            # Two promotions at once: one wins, the other is a 409.
            models.UniqueConstraint(fields=["project", "number"], name="deployment_number_once"),
            models.CheckConstraint(
                condition=Q(canary=None, canary_share=0)
                | Q(canary__isnull=False, canary_share__gt=0) & Q(canary_share__lte=1),
                name="deployment_canary_has_a_share",
            ),
            models.CheckConstraint(
                condition=Q(canary=None) | ~Q(canary=F("champion")), name="deployment_canary_is_another"
            ),
        ]

    def __str__(self) -> str:
        return f"deployment {self.number}: {self.champion}"


class Replica(models.Model):
    """What the reconciler last saw of one engine."""

    url = models.CharField(max_length=200, unique=True)
    is_healthy = models.BooleanField(default=False)
    loaded = models.JSONField(default=dict, help_text="Engine name -> digest, as the engine reports.")
    missing = models.JSONField(
        default=list, help_text="Engine names that should be loaded and are not: drift."
    )
    message = models.CharField(max_length=300, blank=True)
    checked = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["url"]

    def __str__(self) -> str:
        return self.url


class Lease(models.Model):
    """One holder at a time for a named duty. It lapses by itself when the holder dies."""

    name = models.CharField(max_length=60, primary_key=True)
    holder = models.UUIDField()
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} until {self.until:%H:%M:%S}"
