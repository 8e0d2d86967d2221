"""Datasets, runs, evaluations, policies, versions and deployments in the console."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext, gettext_lazy
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldBooleanSwitchWidget

from inference.models import Deployment, Version
from projects.console import FactAdmin, OperatorAdmin, ReasonForm, actor_of, ask_first, each, is_operator
from training.models import Dataset, Document, Evaluation, Pipeline, Policy, Rollout, Run, RunEvent
from training.services.evaluations import create_evaluation, decide
from training.services.policy_changes import FIELDS, check_policy, set_policy
from training.services.promotion import promote_version, rollback_version
from training.services.runs import cancel_run
from training.tasks import ring, tick_runs, tick_work


class PromotionForm(ReasonForm):
    share = forms.TypedChoiceField(
        label=gettext_lazy("Share of conversations"),
        coerce=float,
        choices=[(1.0, gettext_lazy("All")), (0.25, "25 %"), (0.05, "5 %"), (0.01, "1 %")],
        widget=UnfoldAdminSelectWidget,
    )
    canary = forms.BooleanField(
        label=gettext_lazy("Step by step: 1, 5, 25 % and all, or back, by itself"),
        required=False,
        widget=UnfoldBooleanSwitchWidget,
    )
    override = forms.BooleanField(
        label=gettext_lazy("Promote without a verdict that says so"),
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text=gettext_lazy("This is written down with your name."),
    )


@admin.register(Version)
class VersionAdmin(FactAdmin):
    list_display = ("__str__", "project", "kind", "status", "is_candidate", "created")
    list_filter = ("project", "kind", "status", "is_candidate")
    list_select_related = ("project",)
    search_fields = ("digest",)
    written_out = ("manifest",)
    actions = ("promote", "evaluate")

    @admin.action(description=gettext_lazy("Promote"))
    def promote(self, request: HttpRequest, queryset: QuerySet[Version]) -> HttpResponse | None:
        def act(version: Version, said: dict[str, Any]) -> object:
            return promote_version(
                project=version.project,
                version=version,
                actor=actor_of(request),
                reason=said["reason"],
                share=said["share"],
                override=said["override"],
                canary=said["canary"],
            )

        return ask_first(
            self,
            request,
            queryset.select_related("project"),
            action="promote",
            title=gettext("Promote"),
            form=PromotionForm,
            act=act,
            done=gettext("Promoted"),
        )

    @admin.action(description=gettext_lazy("Evaluate against what serves"))
    def evaluate(self, request: HttpRequest, queryset: QuerySet[Version]) -> None:
        def act(version: Version) -> object:
            return create_evaluation(
                project=version.project, candidate=version, sample=True, actor=actor_of(request)
            )

        each(request, queryset.select_related("project"), act, done=gettext("Evaluations begun"))
        ring(tick_work)


@admin.register(Deployment)
class DeploymentAdmin(FactAdmin):
    list_display = ("number", "project", "kind", "champion", "canary", "canary_share", "user", "created")
    list_filter = ("project", "kind")
    list_select_related = ("project", "champion__project", "canary__project", "user")
    ordering = ("-created",)
    search_fields = ("reason",)
    written_out = ("reason", "detail")
    actions = ("roll_back",)

    @admin.action(description=gettext_lazy("Roll its project back"))
    def roll_back(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> HttpResponse | None:
        """To the champion before; each project once, whichever of its deployments were chosen."""
        one_each = {row.project_id: row for row in queryset.select_related("project")}

        def act(row: Deployment, said: dict[str, Any]) -> object:
            return rollback_version(project=row.project, actor=actor_of(request), reason=said["reason"])

        return ask_first(
            self,
            request,
            queryset.filter(pk__in=[row.pk for row in one_each.values()]).select_related(
                "project", "champion__project"
            ),
            action="roll_back",
            title=gettext("Roll back"),
            form=ReasonForm,
            act=act,
            done=gettext("Rolled back"),
        )


@admin.register(Rollout)
class RolloutAdmin(FactAdmin):
    list_display = ("__str__", "project", "status", "share", "created", "ended")
    list_filter = ("project", "status")
    list_select_related = ("project", "candidate__project", "champion__project")
    search_fields = ("message",)
    written_out = ("findings", "plan", "message")


@admin.register(Dataset)
class DatasetAdmin(FactAdmin):
    list_display = ("__str__", "project", "format", "rows", "heldout_rows", "status", "cutoff")
    list_filter = ("project", "format", "status")
    list_select_related = ("project",)
    search_fields = ("digest",)
    written_out = ("filters", "drops", "manifest")


@admin.register(Document)
class DocumentAdmin(FactAdmin):
    list_display = ("__str__", "project", "external_id", "created")
    list_filter = ("project",)
    list_select_related = ("project",)
    search_fields = ("external_id",)
    written_out = ("tags",)


@admin.register(Run)
class RunAdmin(FactAdmin):
    list_display = (
        "__str__",
        "project",
        "status",
        "cause",
        "step",
        "total_steps",
        "attempt",
        "created",
        "finished",
    )
    list_filter = ("project", "status", "cause", "method")
    list_select_related = ("project",)
    search_fields = ("message", "slot")
    written_out = ("config", "metrics", "compute", "handle", "message")
    actions = ("cancel",)

    @admin.action(description=gettext_lazy("Cancel"))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        each(
            request,
            queryset.select_related("project"),
            lambda run: cancel_run(run=run, actor=actor_of(request)),
            done=gettext("Cancelled"),
        )
        ring(tick_runs)


@admin.register(RunEvent)
class RunEventAdmin(FactAdmin):
    list_display = ("run", "name", "sequence", "created")
    list_filter = ("name",)
    list_select_related = ("run__project",)
    written_out = ("data",)


@admin.register(Evaluation)
class EvaluationAdmin(FactAdmin):
    list_display = ("__str__", "project", "status", "verdict", "created", "decided")
    list_filter = ("project", "status", "verdict")
    list_select_related = ("project", "candidate__project", "champion__project")
    search_fields = ("reason",)
    written_out = ("reason", "numbers", "prompt_ids")
    actions = ("decide",)

    @admin.action(description=gettext_lazy("Decide by the votes so far"))
    def decide(self, request: HttpRequest, queryset: QuerySet[Evaluation]) -> None:
        rows = queryset.select_related("project", "candidate__project", "champion__project")
        each(
            request,
            rows,
            lambda evaluation: decide(evaluation=evaluation, actor=actor_of(request)),
            done=gettext("Decided"),
        )


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg]  # Django has no generics at run time
    """Checked as the page and the API check it; what is wrong is said at its field."""

    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        filled = Policy(**{name: value for name, value in said.items() if name in FIELDS})
        for name, message in check_policy(filled).items():
            if name in self.fields and name not in self.errors:
                self.add_error(name, message)
        return said


@admin.register(Pipeline)
class PipelineAdmin(FactAdmin):
    list_display = ("__str__", "project", "status", "created", "finished")
    list_filter = ("project", "status")
    list_select_related = ("project",)
    search_fields = ("message",)
    written_out = ("configs", "filters", "message")


@admin.register(Policy)
class PolicyAdmin(OperatorAdmin):
    list_display = (
        "project",
        "is_enabled",
        "cron",
        "min_new_judgements",
        "method",
        "margin",
        "min_battles",
        "approval",
    )
    list_filter = ("is_enabled", "approval")
    list_select_related = ("project",)
    search_fields = ("project__slug",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Policy | None = None) -> tuple[str, ...]:
        return ("project",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Policy, form: forms.ModelForm[Any], change: bool) -> None:
        changes = {name: form.cleaned_data[name] for name in form.changed_data if name != "project"}
        obj.pk = set_policy(project=obj.project, changes=changes, actor=actor_of(request)).pk

    def get_form(self, request: HttpRequest, obj: Policy | None = None, **kwargs: Any) -> Any:
        return super().get_form(request, obj, form=PolicyForm, **kwargs)
