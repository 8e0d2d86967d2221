"""What people said, and what they were asked, in the console. It is never changed; it can be taken back."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext, gettext_lazy

from feedback.models import (
    Assignment,
    Candidate,
    Correction,
    Feedback,
    Flag,
    Leaderboard,
    Preference,
    Rating,
    Task,
)
from feedback.services.judge import Judge
from feedback.services.record import retract_feedback
from projects.console import FactAdmin, FactInline, actor_of, each


class FeedbackAdmin(FactAdmin):
    list_filter: tuple[str, ...] = ("project", "source", "retracted", "superseded")
    list_select_related = ("project", "rater")
    search_fields: tuple[str, ...] = ("rater__username", "subject")
    actions = ("take_back",)

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
    list_filter = (*FeedbackAdmin.list_filter, "aspect", "value")


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
        "__str__",
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


@admin.register(Candidate)
class CandidateAdmin(FactAdmin):
    list_display = ("preference", "position", "rank", "completion")
    list_select_related = ("preference", "completion")


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
    list_filter = ("project", "kind", "source", "is_open", "outcome", "strategy")
    list_select_related = ("project", "prompt")


@admin.register(Assignment)
class AssignmentAdmin(FactAdmin):
    list_display = ("task", "rater", "state", "lease_until", "closed")
    list_filter = ("project", "state")
    list_select_related = ("task", "rater")
    search_fields = ("rater__username",)
