"""What people said, and what they were asked, in the console. It is never changed; it can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_lazy

from feedback.models import (
    Agreement,
    Assignment,
    Candidate,
    Correction,
    Feedback,
    Flag,
    Leaderboard,
    OptOut,
    Preference,
    RaterEvent,
    Rating,
    SampleRequest,
    Score,
    SetAside,
    Standing,
    Task,
    Workbench,
)
from feedback.services.judge import Judge
from feedback.services.raters import quarantine_rater, restore_rater, watch_rater
from feedback.services.record import retract_feedback
from feedback.services.set_aside import release_answer
from feedback.services.workbench import SETTINGS, update_workbench
from projects.console import FactAdmin, FactInline, OperatorAdmin, ReasonForm, actor_of, ask_first, each


class FeedbackAdmin(FactAdmin):
    list_filter: tuple[str, ...] = ("project", "source", "retracted", "superseded")
    list_select_related = ("project", "rater")
    search_fields: tuple[str, ...] = ("rater__username", "subject")
    actions = ("take_back",)

    def view_on_site(self, obj: Feedback) -> str:
        """What became of it: datasets, runs, versions."""
        return reverse("lineage", args=(obj.project.slug, "feedback", obj.pk))

    @admin.action(description=gettext_lazy("Take back"))
    def take_back(self, request: HttpRequest, queryset: QuerySet[Feedback]) -> None:
        """It stays as a row and leaves new datasets. Audited, since it is somebody else's."""
        judge = Judge(user=actor_of(request).user)
        each(
            request,
            queryset.select_related("project"),
            lambda row: retract_feedback(project=row.project, judge=judge, feedback_id=row.pk),
            done=gettext("Taken back"),
        )


@admin.register(Rating)
class RatingAdmin(FeedbackAdmin):
    list_display = ("__str__", "project", "rater", "subject", "reasons", "created", "retracted")


class CandidateInline(FactInline):
    model = Candidate
    fields = ("position", "rank", "completion")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Candidate]:
        found: QuerySet[Candidate] = super().get_queryset(request)
        return found.select_related("completion")


@admin.register(Preference)
class PreferenceAdmin(FeedbackAdmin):
    list_display = (
        "ranks",
        "project",
        "rater",
        "subject",
        "all_bad",
        "seconds_spent",
        "created",
        "retracted",
    )
    list_filter = (*FeedbackAdmin.list_filter, "all_bad")
    inlines = (CandidateInline,)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Preference]:
        found: QuerySet[Preference] = super().get_queryset(request)
        return found.prefetch_related("candidates")

    @admin.display(description=gettext_lazy("Ranks, as shown"))
    def ranks(self, row: Preference) -> str:
        """`1 : 2` where the left one is better."""
        if row.all_bad:
            return gettext("all bad")
        return " : ".join(str(side.rank) for side in row.candidates.all())


@admin.register(Candidate)
class CandidateAdmin(FactAdmin):
    list_display = ("preference", "position", "rank", "completion")
    list_select_related = ("preference", "completion")
    ordering = ("-pk",)  # positions have no index


@admin.register(Correction)
class CorrectionAdmin(FeedbackAdmin):
    list_display = ("__str__", "project", "rater", "subject", "created", "retracted")
    search_fields = (*FeedbackAdmin.search_fields, "text")
    written_out = ("text",)


@admin.register(Flag)
class FlagAdmin(FeedbackAdmin):
    list_display = ("reason", "project", "rater", "subject", "created", "retracted")
    list_filter = (*FeedbackAdmin.list_filter, "reason")


@admin.register(Leaderboard)
class LeaderboardAdmin(FactAdmin):
    list_display = ("project", "measured")


@admin.register(Task)
class TaskAdmin(FactAdmin):
    list_display = (
        "prompt",
        "kind",
        "source",
        "project",
        "priority",
        "overlap",
        "held",
        "done",
        "is_open",
        "outcome",
    )
    ordering = ("-pk",)  # over all projects, the order of the line has no index
    list_filter = ("project", "kind", "source", "is_open", "outcome", "strategy")
    list_select_related = ("project", "prompt")


@admin.register(Assignment)
class AssignmentAdmin(FactAdmin):
    list_display = ("task", "rater", "state", "lease_until", "closed")
    list_filter = ("project", "state")
    list_select_related = ("task", "rater")
    search_fields = ("rater__username",)


@admin.register(Workbench)
class WorkbenchAdmin(OperatorAdmin):
    """How a project asks its raters. Its row is made when it is first needed."""

    list_display = ("project", "overlap", "random_share", "gold_share", "live_share", "daily_cap")
    list_select_related = ("project",)
    fields = SETTINGS

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: Workbench, form: forms.ModelForm[Any], change: bool
    ) -> None:
        changes = {name: form.cleaned_data[name] for name in form.changed_data}
        update_workbench(project=obj.project, actor=actor_of(request), **changes)


@admin.register(SampleRequest)
class SampleRequestAdmin(FactAdmin):
    list_display = ("__str__", "project", "status", "tasks", "message", "created", "finished")
    list_filter = ("project", "status")
    list_select_related = ("project",)


@admin.register(Score)
class ScoreAdmin(FactAdmin):
    list_display = ("completion", "value", "reward", "created")
    list_select_related = ("completion", "reward__project")


@admin.register(SetAside)
class SetAsideAdmin(FactAdmin):
    """Answers that flags set aside, and when they came back."""

    list_display = ("completion", "project", "created", "released", "is_overruled", "released_by")
    list_filter = ("project", "is_overruled")
    list_select_related = ("project", "completion", "released_by")
    actions = ("release",)

    @admin.action(description=gettext_lazy("Release"))
    def release(self, request: HttpRequest, queryset: QuerySet[SetAside]) -> None:
        """The answers are in use again."""
        actor = actor_of(request)
        each(
            request,
            queryset.select_related("project"),
            lambda row: release_answer(project=row.project, completion_id=row.completion_id, actor=actor),
            done=gettext("Released"),
        )


@admin.register(OptOut)
class OptOutAdmin(FactAdmin):
    list_display = ("subject", "project", "created")
    list_filter = ("project",)
    search_fields = ("subject",)


@admin.register(Standing)
class StandingAdmin(FactAdmin):
    """Raters as they stand now; each action asks for its reason and is dated."""

    list_display = ("user", "project", "status", "weight", "reason", "measured")
    list_filter = ("project", "status")
    list_select_related = ("project", "user")
    search_fields = ("user__username",)
    written_out = ("numbers",)
    actions = ("quarantine", "watch", "restore")

    @admin.action(description=gettext_lazy("Quarantine"))
    def quarantine(self, request: HttpRequest, queryset: QuerySet[Standing]) -> HttpResponse | None:
        return self._ask(request, queryset, "quarantine", quarantine_rater, gettext("Quarantined"))

    @admin.action(description=gettext_lazy("Watch"))
    def watch(self, request: HttpRequest, queryset: QuerySet[Standing]) -> HttpResponse | None:
        return self._ask(request, queryset, "watch", watch_rater, gettext("Watched"))

    @admin.action(description=gettext_lazy("Restore"))
    def restore(self, request: HttpRequest, queryset: QuerySet[Standing]) -> HttpResponse | None:
        return self._ask(request, queryset, "restore", restore_rater, gettext("Restored"))

    def _ask(
        self,
        request: HttpRequest,
        rows: QuerySet[Standing],
        action: str,
        service: Callable[..., object],
        done: str,
    ) -> HttpResponse | None:
        actor = actor_of(request)
        return ask_first(
            self,
            request,
            rows.select_related("project", "user"),
            action=action,
            title=gettext("Why?"),
            form=ReasonForm,
            act=lambda row, said: service(
                project=row.project, rater=row.user, actor=actor, reason=said["reason"]
            ),
            done=done,
        )


@admin.register(RaterEvent)
class RaterEventAdmin(FactAdmin):
    list_display = ("created", "rater", "kind", "weight", "reason", "project", "user")
    list_filter = ("project", "kind")
    list_select_related = ("project", "rater", "user")
    search_fields = ("rater__username", "reason")


@admin.register(Agreement)
class AgreementAdmin(FactAdmin):
    list_display = ("project", "kind", "aspect", "alpha", "low", "high", "units", "raters", "measured")
    list_filter = ("project", "kind")
    list_select_related = ("project",)
