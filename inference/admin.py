"""Projects, and what was asked and answered, in the console."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from inference.models import Completion, Conversation, Prompt, Replica
from inference.services.versions import start_project
from projects.console import FactAdmin, OperatorAdmin, actor_of
from projects.models import Project
from projects.services import update_project


@admin.register(Project)
class ProjectAdmin(OperatorAdmin):
    """A new project serves at once: its base model becomes v1."""

    list_display = ("slug", "name", "gate_share", "temperature", "max_tokens", "created")
    search_fields = ("slug", "name")
    fieldsets = (
        (None, {"fields": ("slug", "name", "description")}),
        ("Raters", {"fields": ("guidelines", "form", "guideline_version")}),
        ("Answers", {"fields": ("system_prompt", "temperature", "max_tokens")}),
        ("Gate", {"fields": ("gate_share",)}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Project | None = None) -> tuple[str, ...]:
        # The slug is part of every version's name, at the engine and with clients.
        return ("slug", "guideline_version") if obj else ("guideline_version",)

    def save_model(
        self, request: HttpRequest, obj: Project, form: forms.ModelForm[Any], change: bool
    ) -> None:
        actor = actor_of(request)
        if change:
            update_project(project=obj, changed=form.changed_data, actor=actor)
            return
        given = {name: form.cleaned_data[name] for name in form.cleaned_data if name not in ("slug", "name")}
        made = start_project(slug=obj.slug, name=obj.name, actor=actor, **given)
        obj.pk, obj.salt, obj.created = made.pk, made.salt, made.created


@admin.register(Conversation)
class ConversationAdmin(FactAdmin):
    list_display = ("title", "owner", "project", "updated")
    list_filter = ("project",)
    list_select_related = ("owner", "project")
    search_fields = ("title", "owner__username")


@admin.register(Prompt)
class PromptAdmin(FactAdmin):
    list_display = ("__str__", "project", "split", "external_id", "created")
    list_filter = ("project", "split")
    list_select_related = ("project",)
    search_fields = ("external_id", "digest")
    written_out = ("messages",)


@admin.register(Completion)
class CompletionAdmin(FactAdmin):
    list_display = ("__str__", "project", "state", "finish_reason", "tokens_out", "ttft_ms", "created")
    list_filter = ("project", "state", "quarantined")  # labels would be looked for in every row
    list_select_related = ("project",)
    search_fields = ("version_label", "subject", "text")
    written_out = ("text", "sampling")


@admin.register(Replica)
class ReplicaAdmin(FactAdmin):
    list_display = ("url", "is_healthy", "missing", "message", "checked")
    written_out = ("loaded",)
