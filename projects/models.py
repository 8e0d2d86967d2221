"""The ground floor: who is here, what is being improved, and what was done by whom."""

from __future__ import annotations

import hashlib
import secrets

from django.contrib.auth.models import AbstractUser
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from projects.ids import uuid7


class User(AbstractUser):
    """A person who signs in. Staff are operators: they stand above all projects."""

    @property
    def is_operator(self) -> bool:
        return self.is_active and self.is_staff


def new_salt() -> str:
    return secrets.token_hex(16)


def default_reasons() -> dict[str, list[str]]:
    """Stable keys that a rater may tick beside a thumb; the pages translate them."""
    return {
        "up": ["correct", "clear", "complete", "well_written"],
        "down": ["wrong", "unclear", "incomplete", "too_long", "off_topic", "unsafe"],
    }


class Project(models.Model):
    """One model line that is being improved."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    guidelines = models.TextField(blank=True, help_text="What raters are asked to look for (Markdown).")
    guideline_version = models.PositiveIntegerField(default=1)
    reasons = models.JSONField(default=default_reasons)
    system_prompt = models.TextField(blank=True, help_text="Put before every conversation on the chat page.")
    # Sampling of answers on pages and in evaluations; API clients send their own.
    temperature = models.FloatField(default=0.8, validators=[MinValueValidator(0.0), MaxValueValidator(2.0)])
    max_tokens = models.PositiveIntegerField(default=256, validators=[MinValueValidator(1)])
    gate_share = models.FloatField(
        default=0.1,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
        help_text="Share of prompts kept for the gate, never trained on. Fixed for a prompt at its birth.",
    )
    salt = models.CharField(max_length=64, default=new_salt, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(gate_share__gte=0) & models.Q(gate_share__lte=1),
                name="project_gate_share_is_a_share",
            )
        ]

    def __str__(self) -> str:
        return self.slug


class Membership(models.Model):
    """What a person may do in a project. Each role may do all that the one before it may."""

    class Role(models.TextChoices):
        RATER = "rater", "rater"
        REVIEWER = "reviewer", "reviewer"
        MANAGER = "manager", "manager"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.RATER)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="membership_once")]

    def __str__(self) -> str:
        return f"{self.user} as {self.role} of {self.project}"


class ApiKey(models.Model):
    """A program's way in: `rk_<prefix>_<secret>`. Only the sha256 of the whole key is kept."""

    class Scope(models.TextChoices):
        GENERATE = "generate", "generate"
        FEEDBACK_WRITE = "feedback:write", "feedback:write"
        FEEDBACK_READ = "feedback:read", "feedback:read"
        DATA_READ = "data:read", "data:read"
        MANAGE = "manage", "manage"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    scopes = models.JSONField(default=list)
    expires = models.DateTimeField(null=True, blank=True)
    revoked = models.DateTimeField(null=True, blank=True)
    last_used = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-created"]

    def __str__(self) -> str:
        return f"{self.name} (rk_{self.prefix}_…)"

    @property
    def is_usable(self) -> bool:
        return self.revoked is None and (self.expires is None or self.expires > timezone.now())

    @staticmethod
    def hash_key(key: str) -> str:
        return hashlib.sha256(key.encode()).hexdigest()


class AuditEvent(models.Model):
    """Who did what to what, and why. Appended only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, null=True, on_delete=models.SET_NULL, related_name="audit_events")
    user = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    api_key = models.ForeignKey(ApiKey, null=True, on_delete=models.SET_NULL, related_name="+")
    action = models.CharField(max_length=60)
    subject = models.CharField(max_length=120, help_text="What it was done to, such as version:7.")
    detail = models.JSONField(default=dict)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["project", "-created"], name="audit_by_project")]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"
