"""The ground floor: who is here, what is being improved, and what was done by whom."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from django.contrib.auth.models import AbstractUser
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from projects.form import Form, default_form
from projects.ids import uuid7


class User(AbstractUser):
    """A person who signs in. Staff are operators: they stand above all projects."""

    @property
    def is_operator(self) -> bool:
        return self.is_active and self.is_staff


def new_salt() -> str:
    return secrets.token_hex(16)


class Project(models.Model):
    """One model line that is being improved."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=100)
    description = models.TextField(blank=True)
    guidelines = models.TextField(blank=True, help_text="What raters are asked to look for (Markdown).")
    guideline_version = models.PositiveIntegerField(default=1, help_text="The edition in force.")
    form = models.JSONField(default=default_form, help_text="What raters are asked about one answer.")
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
    # Whether an endpoint listens, so that an event which nobody waits for costs no query.
    has_webhooks = models.BooleanField(default=False, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)
    _read_form: tuple[object, Form] | None = None

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

    @property
    def rating_form(self) -> Form:
        """The form that is in force, checked when it was saved; read once while it is the same document."""
        if self._read_form is None or self._read_form[0] is not self.form:
            self._read_form = self.form, Form.model_validate(self.form)
        return self._read_form[1]


class Edition(models.Model):
    """Guidelines and form as they once read: each change is a new edition, which judgements then carry."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="editions")
    number = models.PositiveIntegerField()
    guidelines = models.TextField(blank=True)
    form = models.JSONField()
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="edition_number_once")]

    def __str__(self) -> str:
        return f"{self.project.slug}, edition {self.number}"


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
    # After a rotation the secret before is good for a while, so that a program can change over.
    previous_digest = models.CharField(max_length=64, blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
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

    def opens_with(self, key: str) -> bool:
        """Whether `key` is this key's value, or its value before the last rotation while that is good."""
        digest = self.hash_key(key)
        if hmac.compare_digest(self.digest, digest):
            return True
        is_good = self.previous_until is not None and self.previous_until > timezone.now()
        return is_good and hmac.compare_digest(self.previous_digest, digest)


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


class WebhookEndpoint(models.Model):
    """Where a project's events are sent, signed as standardwebhooks.com says."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="webhooks")
    url = models.CharField(max_length=500)
    description = models.CharField(max_length=200, blank=True)
    events = models.JSONField(default=list, blank=True, help_text="Names of events; empty for all.")
    # Kept readable, since every delivery is signed with it: `whsec_` and 32 random bytes in base64.
    secret = models.CharField(max_length=80, editable=False)
    # After a rotation each delivery is signed with both for a while.
    previous_secret = models.CharField(max_length=80, blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    # One worker at a time delivers to it; a claim lapses when that worker dies.
    busy_until = models.DateTimeField(null=True, blank=True, editable=False)
    # Switched off: no event is written for it, and what waits goes on when it is switched on again.
    disabled = models.DateTimeField(null=True, blank=True, editable=False)
    removed = models.DateTimeField(null=True, blank=True, editable=False)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.url

    @property
    def is_enabled(self) -> bool:
        return self.disabled is None

    def wants(self, event: str) -> bool:
        return not self.events or event in self.events


class WebhookDelivery(models.Model):
    """The outbox: one event on its way to one endpoint, written in the transaction of what happened."""

    class State(models.TextChoices):
        PENDING = "pending", "pending"
        DELIVERED = "delivered", "delivered"
        DEAD = "dead", "dead letter"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries")
    # The same for each endpoint and each attempt: by it a receiver knows what it has seen.
    event_id = models.UUIDField(editable=False)
    event = models.CharField(max_length=40)
    payload = models.TextField(help_text="The body as it is signed and sent.")
    state = models.CharField(max_length=9, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due = models.DateTimeField(default=timezone.now, help_text="When it is tried next.")
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="HTTP status, last attempt.")
    error = models.CharField(max_length=300, blank=True)
    delivered = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(fields=["endpoint", "due"], condition=models.Q(state="pending"), name="delivery_due")
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.event_id}"


class IdempotentRequest(models.Model):
    """A request that named itself with Idempotency-Key, claimed by its insert, and its answer."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=255, help_text="The Idempotency-Key.")
    digest = models.CharField(max_length=64, help_text="sha256 of method, path and body; empty until read.")
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Empty while in flight.")
    answer = models.TextField(blank=True)
    locked_until = models.DateTimeField(help_text="After this an unanswered claim may be taken over.")
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["api_key", "name"], name="idempotency_key_once")]
        indexes = [models.Index(fields=["created"], name="idempotent_by_time")]

    def __str__(self) -> str:
        return self.name


class RateWindow(models.Model):
    """How many requests a key or a person was given in one window. Processes take them in chunks."""

    caller = models.CharField(max_length=60, help_text="key:<id> or user:<id>.")
    window = models.BigIntegerField(help_text="Unix time at its beginning.")
    used = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "window"], name="rate_window_once")]

    def __str__(self) -> str:
        return f"{self.caller}: {self.used}"


class HourlyCount(models.Model):
    """What one hour of a project brought, counted once when it was over: see services/hourly.py."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+", db_index=False)
    series = models.CharField(max_length=20, help_text="What was counted, such as answers.")
    label = models.CharField(max_length=100, blank=True, help_text="Of which sort, such as a version's.")
    measure = models.CharField(max_length=20, help_text="count, or what else is summed up.")
    hour = models.DateTimeField(help_text="Its beginning.")
    value = models.FloatField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "series", "hour", "label", "measure"], name="hourly_count_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.series} {self.label} {self.hour:%Y-%m-%d %H:%M}: {self.measure} {self.value:g}"


class CountedUntil(models.Model):
    """How far a project's hours are counted and kept."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="+")
    until = models.DateTimeField(null=True, blank=True)
    # Raised by whoever takes away rows that may be counted, so that a count which began before is dropped.
    edition = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.project} until {self.until}"
