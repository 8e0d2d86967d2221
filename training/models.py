"""What is learned from feedback: datasets, runs, evaluations, and the policy that starts them."""

from __future__ import annotations

from pathlib import Path

from croniter import croniter
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from inference.models import Version
from projects.ids import uuid7
from projects.models import ApiKey, Project, User


class Dataset(models.Model):
    """An immutable snapshot compiled from feedback, in TRL's columns."""

    class Format(models.TextChoices):
        PREFERENCE = "preference", "preference (prompt, chosen, rejected, margin)"
        SFT = "sft", "demonstrations (prompt, completion)"
        UNPAIRED = "unpaired", "unpaired (prompt, completion, label)"
        PROMPTS = "prompts", "prompts (prompt)"
        TEXT = "text", "plain text (text)"

    class Gathered(models.TextChoices):
        """What runs judge that train nothing: gathered for one run, not compiled from judgements."""

        COMPLETIONS = "completions", "answers to score (id, prompt, completion)"
        EXAMPLES = "examples", "examples to evaluate on (texts, pairs, answers)"

    class Status(models.TextChoices):
        READY = "ready", "ready"
        ERASED = "erased", "erased"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="datasets")
    number = models.PositiveIntegerField()
    format = models.CharField(max_length=12, choices=[*Format.choices, *Gathered.choices])
    filters = models.JSONField(default=dict)
    cutoff = models.DateTimeField()
    rows = models.PositiveIntegerField()
    heldout_rows = models.PositiveIntegerField(default=0)
    drops = models.JSONField(default=dict, help_text="Reason -> how many judgements were left out.")
    digest = models.CharField(max_length=80)
    path = models.CharField(max_length=300, help_text="Under ARTIFACTS_DIR.")
    manifest = models.JSONField(default=dict)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.READY)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="dataset_number_once")]

    def __str__(self) -> str:
        return f"{self.project.slug} dataset {self.number}"

    @property
    def folder(self) -> Path:
        return Path(settings.ARTIFACTS_DIR) / self.path


class Document(models.Model):
    """A piece of plain text that nobody labelled, for continued pretraining."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="documents")
    text = models.TextField()
    digest = models.CharField(max_length=64, editable=False, help_text="sha256 of the text.")
    external_id = models.CharField(max_length=200, blank=True)
    tags = models.JSONField(default=list)
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "digest"], name="document_once_a_project"),
        ]

    def __str__(self) -> str:
        return self.text[:60]


class Pipeline(models.Model):
    """Runs one after the other, each reading what the one before it made."""

    class Status(models.TextChoices):
        RUNNING = "running", "running"
        FINISHED = "finished", "finished"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    STOPPED = (Status.FAILED, Status.CANCELLED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="pipelines")
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=20, help_text="Such as sft-dpo.")
    stages = models.JSONField(help_text="Methods, in order.")
    configs = models.JSONField(default=dict, help_text="Method -> what differs from its defaults.")
    filters = models.JSONField(default=dict, help_text="Of the datasets that it compiles.")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.RUNNING)
    message = models.TextField(blank=True, help_text="Where it stands, or why it stopped, in words.")
    slot = models.CharField(max_length=80, null=True, blank=True)  # noqa: DJ001 - unique where given
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="pipeline_number_once"),
            models.UniqueConstraint(
                fields=["project", "slot"], condition=Q(slot__isnull=False), name="pipeline_once_a_slot"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.project.slug} pipeline {self.number} ({self.name})"


class Run(models.Model):
    """One job on a run directory: a row with a lease, not a queue message."""

    class Status(models.TextChoices):
        QUEUED = "queued", "queued"
        RUNNING = "running", "running"
        FINISHED = "finished", "finished"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    class Cause(models.TextChoices):
        OOM = "oom", "out of memory"
        DIVERGED = "diverged", "diverged"
        DATA = "data", "data"
        LOST = "lost", "lost"
        TIMEOUT = "timeout", "timeout"
        CANCELLED = "cancelled", "cancelled"
        DISK = "disk", "disk full"
        INTERNAL = "internal", "internal error"

    ACTIVE = (Status.QUEUED, Status.RUNNING)
    RESUMABLE = (Status.FAILED, Status.CANCELLED)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs")
    number = models.PositiveIntegerField()
    method = models.CharField(max_length=12, default="dpo")
    dataset = models.ForeignKey(Dataset, on_delete=models.PROTECT, related_name="runs")
    config = models.JSONField(default=dict, help_text="Every hyperparameter, defaults written out.")
    seed = models.PositiveIntegerField(default=0)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    cause = models.CharField(max_length=10, choices=Cause.choices, blank=True)
    message = models.TextField(blank=True)
    launcher = models.CharField(max_length=12, default="local")
    trainer = models.CharField(
        max_length=120, blank=True, help_text="The slot that it holds while it runs: one run at a time each."
    )
    # The lease: who ticks it, until when; `fence` grows with each claim, so a stale owner cannot publish.
    owner = models.CharField(max_length=160, blank=True)
    fence = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True, blank=True)
    attempt = models.PositiveSmallIntegerField(default=0)
    # How to find the child again: pid and start time, as the launcher's handle.
    handle = models.JSONField(default=dict)
    cancel_requested = models.BooleanField(default=False)
    events_offset = models.PositiveBigIntegerField(default=0, help_text="Bytes of events.jsonl taken over.")
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    metrics = models.JSONField(default=dict, help_text="The latest of each number.")
    compute = models.JSONField(default=dict, help_text="tokens by role, flops, pf_days, device_seconds.")
    reward = models.ForeignKey(
        Version,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="runs_rewarded",
        help_text="The reward model that it reads.",
    )
    start = models.ForeignKey(
        Version,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="runs_begun",
        help_text="The adapter that it goes on with; without one it begins from the base.",
    )
    judged = models.ForeignKey(
        Version,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="runs_judging",
        help_text="The version that a score or evaluate run reads; without one, the base.",
    )
    version = models.OneToOneField(
        Version, null=True, blank=True, on_delete=models.PROTECT, related_name="run"
    )
    slot = models.CharField(max_length=80, null=True, blank=True)  # noqa: DJ001 - unique where given
    pipeline = models.ForeignKey(
        Pipeline, null=True, blank=True, on_delete=models.PROTECT, related_name="runs"
    )
    stage = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Its place in the pipeline.")
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="run_number_once"),
            models.UniqueConstraint(
                fields=["project", "slot"], condition=Q(slot__isnull=False), name="run_once_a_slot"
            ),
            # Two beats at once start a stage once.
            models.UniqueConstraint(
                fields=["pipeline", "stage"], condition=Q(pipeline__isnull=False), name="run_once_a_stage"
            ),
            # Two claims at once for one device: the second is refused by the database.
            models.UniqueConstraint(
                fields=["trainer"], condition=Q(status="running"), name="run_alone_on_its_trainer"
            ),
        ]
        indexes = [
            models.Index(fields=["status"], condition=Q(status__in=("queued", "running")), name="run_active")
        ]

    def __str__(self) -> str:
        return f"{self.project.slug} run {self.number} ({self.method})"

    @property
    def folder(self) -> Path:
        return Path(settings.ARTIFACTS_DIR) / "runs" / str(self.id)

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def can_resume(self) -> bool:
        return self.status in self.RESUMABLE


class RunEvent(models.Model):
    """One line of a run's events.jsonl, taken over once."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    sequence = models.PositiveBigIntegerField(help_text="Byte offset of the line: the same line is one row.")
    name = models.CharField(max_length=20)
    data = models.JSONField()
    created = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["sequence"]
        constraints = [models.UniqueConstraint(fields=["run", "sequence"], name="run_event_once")]

    def __str__(self) -> str:
        return f"{self.name} of {self.run_id}"


class Evaluation(models.Model):
    """Candidate against champion on gate prompts."""

    class Status(models.TextChoices):
        ANSWERING = "answering", "answering"  # Ratchet makes the missing answers through the engine
        JUDGING = "judging", "judging"
        DECIDED = "decided", "decided"
        FAILED = "failed", "failed"

    class Verdict(models.TextChoices):
        PROMOTE = "promote", "promote"
        REJECT = "reject", "reject"
        INSUFFICIENT = "insufficient", "insufficient"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="evaluations")
    number = models.PositiveIntegerField()
    candidate = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="evaluations")
    champion = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="+")
    prompt_ids = models.JSONField(help_text="The gate prompts, frozen when the evaluation was made.")
    status = models.CharField(max_length=9, choices=Status.choices)
    verdict = models.CharField(max_length=12, choices=Verdict.choices, blank=True)
    reason = models.TextField(blank=True)
    numbers = models.JSONField(default=dict)
    scores = models.JSONField(
        default=dict, help_text="Prompt id -> the second judge's scores: the candidate's, the champion's."
    )
    is_sampled = models.BooleanField(
        default=False, help_text="Ratchet makes the answers and asks the raters; else a program does."
    )
    load_ms = models.FloatField(null=True, blank=True, help_text="How long the engines took to load it.")
    lease_until = models.DateTimeField(null=True, blank=True)
    created = models.DateTimeField(default=timezone.now, editable=False)
    decided = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="evaluation_number_once"),
            models.CheckConstraint(
                condition=~Q(candidate=models.F("champion")), name="evaluation_of_two_versions"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.candidate} against {self.champion}"


def check_cron(value: str) -> None:
    """Raises ValidationError for what is no cron expression of five fields."""
    if len(value.split()) != 5 or not croniter.is_valid(value):
        raise ValidationError("Write five fields, such as 0 3 * * * for each night at three.")


class Policy(models.Model):
    """When a run starts by itself, what it runs, and who approves."""

    class Approval(models.TextChoices):
        AUTOMATIC = "automatic", "the verdict promotes"
        REVIEWER = "reviewer", "a reviewer or a manager promotes"
        MANAGER = "manager", "a manager promotes"
        OPERATOR = "operator", "an operator promotes"

    class Promotion(models.TextChoices):
        CANARY = "canary", "step by step"
        AT_ONCE = "at_once", "at once"

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="policy")
    is_enabled = models.BooleanField(default=False)
    cron = models.CharField(
        max_length=60,
        blank=True,
        validators=[check_cron],
        help_text="Such as 0 3 * * *; empty for none.",
    )
    min_new_judgements = models.PositiveIntegerField(
        default=0, help_text="Start when this many usable judgements came since the last run; 0 for never."
    )
    method = models.CharField(max_length=20, default="dpo", help_text="A method, or a pipeline.")
    config = models.JSONField(
        default=dict, blank=True, help_text="What differs from the defaults; of a pipeline: by method."
    )
    per_rater_cap = models.PositiveIntegerField(default=0, help_text="Judgements of one rater; 0 for any.")
    per_prompt_cap = models.PositiveIntegerField(default=6, help_text="Rows of one prompt; 0 for any.")
    day_hours = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0.0)],
        help_text="Device hours a day, all runs of the project together; 0 for any.",
    )
    week_hours = models.FloatField(
        default=0.0, validators=[MinValueValidator(0.0)], help_text="Device hours in seven days; 0 for any."
    )
    asks_raters = models.BooleanField(
        default=True, help_text="Raters compare the answers of the gate; else its votes come otherwise."
    )
    margin = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="The lower bound of the win rate must exceed 0.5 by this much.",
    )
    min_battles = models.PositiveIntegerField(
        default=50, help_text="Judged gate prompts below this: insufficient."
    )
    approval = models.CharField(max_length=10, choices=Approval.choices, default=Approval.MANAGER)
    promotion = models.CharField(max_length=8, choices=Promotion.choices, default=Promotion.CANARY)
    # What each share of a canary must see before the next one.
    canary_minutes = models.PositiveIntegerField(default=30, help_text="Of each share.")
    canary_answers = models.PositiveIntegerField(default=50, help_text="Of the canary, at each share.")
    canary_judgements = models.PositiveIntegerField(
        default=5, help_text="Of people on the canary's answers, at each share; 0 goes on without any."
    )
    version = models.PositiveIntegerField(default=0, editable=False, help_text="Raised by each change.")
    watch_hours = models.PositiveIntegerField(
        default=24, help_text="How long a version that serves all is watched; 0 for not at all."
    )

    class Meta:
        verbose_name_plural = "policies"
        constraints = [
            models.CheckConstraint(
                condition=Q(margin__gte=0) & Q(margin__lte=0.5), name="policy_margin_range"
            )
        ]

    def __str__(self) -> str:
        return f"policy of {self.project.slug}"


class Rollout(models.Model):
    """One version's way from a canary to all requests, and the watch over it afterwards.

    What serves is the deployments' alone. Each of a rollout names it in its detail, so that a worker that was
    killed between a deployment and this row finds out here.
    """

    class Status(models.TextChoices):
        STEPPING = "stepping", "stepping up"
        PAUSED = "paused", "paused"  # its share stays, and so do its guards
        WATCHING = "watching", "watched"  # it serves all, and can still disappoint
        DONE = "done", "done"
        ROLLED_BACK = "rolled_back", "rolled back"
        ENDED = "ended", "ended by another deployment"

    ACTIVE = (Status.STEPPING, Status.PAUSED, Status.WATCHING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rollouts")
    number = models.PositiveIntegerField()
    candidate = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="rollouts")
    champion = models.ForeignKey(Version, on_delete=models.PROTECT, related_name="+")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.STEPPING)
    shares = models.JSONField(help_text="Of conversations, each larger than the one before; the last is 1.")
    step = models.PositiveSmallIntegerField(default=0, help_text="The place in `shares` that serves now.")
    step_started = models.DateTimeField(default=timezone.now)
    plan = models.JSONField(help_text="minutes, answers, judgements, watch_hours: the policy's at its start.")
    findings = models.JSONField(default=dict, help_text="What the last look saw.")
    message = models.TextField(blank=True, help_text="Where it stands, or why it ended, in words.")
    lease_until = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    ended = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="rollout_number_once"),
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(status__in=("stepping", "paused", "watching")),
                name="rollout_one_active",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.candidate} in place of {self.champion}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def share(self) -> float:
        return float(self.shares[self.step])


class Erasure(models.Model):
    """A person who is erased from a project: how far it came, and in the end the report that proves it.

    Who it is stands here only while it is under way.
    """

    class Mode(models.TextChoices):
        REMOVE = "remove", "remove their judgements"
        ANONYMISE = "anonymise", "keep what they judged without their name and words"

    class Status(models.TextChoices):
        WAITING = "waiting", "waiting"
        RUNNING = "running", "running"
        DONE = "done", "done"

    ACTIVE = (Status.WAITING, Status.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="erasures")
    number = models.PositiveIntegerField()
    mode = models.CharField(max_length=9, choices=Mode.choices)
    status = models.CharField(max_length=7, choices=Status.choices, default=Status.WAITING)
    reason = models.CharField(max_length=300, blank=True, help_text="Such as the request's number; no names.")
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    subject = models.CharField(max_length=200, blank=True)
    pseudonym = models.CharField(max_length=30, help_text="Stands where their name stood.")
    secret = models.CharField(max_length=32, blank=True, editable=False)
    before = models.JSONField(default=dict, help_text="Rows by what they are, when it began.")
    after = models.JSONField(default=dict)
    datasets = models.JSONField(default=list, help_text="number, format, digest, rows, held; deleted.")
    versions = models.JSONField(default=list, help_text="number, digest, serves; marked.")
    remains = models.JSONField(default=list, help_text="what, count, why.")
    lease_until = models.DateTimeField(null=True, blank=True)
    requested_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="erasure_number_once"),
            models.UniqueConstraint(
                fields=["project", "user"],
                condition=Q(status__in=("waiting", "running")),
                name="erasure_of_a_member_once_at_a_time",
            ),
            models.UniqueConstraint(
                fields=["project", "subject"],
                condition=Q(status__in=("waiting", "running")) & ~Q(subject=""),
                name="erasure_of_an_end_user_once_at_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"erasure {self.number} of {self.project_id}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def removed(self) -> int:
        """How many judgements are gone with the person."""
        kinds = ("corrections",) if self.mode == self.Mode.ANONYMISE else _KINDS
        return sum(self.before.get(kind, 0) for kind in kinds)


_KINDS = ("ratings", "preferences", "corrections", "flags")


class Compilation(models.Model):
    """A preview or a dataset too large for a request, which a worker makes; or what begins with one.

    The run or pipeline that it begins has its id, so that a worker that died behind it begins no second one.
    """

    class Kind(models.TextChoices):
        PREVIEW = "preview", "preview"
        BUILD = "build", "dataset"
        RUN = "run", "run"
        PIPELINE = "pipeline", "pipeline"
        RETRAIN = "retrain", "training without a person"

    BEGINNINGS = (Kind.RUN, Kind.PIPELINE, Kind.RETRAIN)

    class Status(models.TextChoices):
        WAITING = "waiting", "waiting"
        RUNNING = "running", "running"
        DONE = "done", "done"
        FAILED = "failed", "failed"
        CANCELLED = "cancelled", "cancelled"

    ACTIVE = (Status.WAITING, Status.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="compilations")
    kind = models.CharField(max_length=8, choices=Kind.choices)
    format = models.CharField(max_length=12, choices=Dataset.Format.choices)
    wanted = models.JSONField(default=dict, help_text="Of what begins with it: as its service is called.")
    filters = models.JSONField(default=dict)
    cutoff = models.DateTimeField()
    form = models.JSONField(default=list, help_text="What the page's form said, for its next button.")
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.WAITING)
    read = models.PositiveIntegerField(default=0, help_text="Judgements read so far.")
    total = models.PositiveIntegerField(default=0, help_text="Judgements of the project when it was asked.")
    message = models.TextField(blank=True, help_text="Why it failed.")
    result = models.JSONField(default=dict, help_text="Of a preview, for a day.")
    dataset = models.ForeignKey(Dataset, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    cancel_requested = models.BooleanField(default=False)
    lease_until = models.DateTimeField(null=True, blank=True)
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    api_key = models.ForeignKey(ApiKey, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created = models.DateTimeField(default=timezone.now, editable=False)
    started = models.DateTimeField(null=True, blank=True)
    finished = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["created"], condition=Q(status__in=("waiting", "running")), name="compilation_active"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.project_id}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def run(self) -> Run | None:
        """The run that it began, of a pipeline the first one."""
        return Run.objects.filter(Q(pk=self.pk) | Q(pipeline=self.pk)).order_by("stage").first()
