"""People, members, keys and the audit trail in the console. Projects are in inference/admin.py."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext, gettext_lazy
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from projects.console import FactAdmin, OperatorAdmin, actor_of, each, is_operator
from projects.errors import Problem
from projects.models import ApiKey, AuditEvent, Membership, User, WebhookDelivery, WebhookEndpoint
from projects.services import (
    add_member,
    create_api_key,
    record_audit,
    remove_member,
    revoke_api_key,
    rotate_api_key,
)
from projects.services.outbox import EVENTS
from projects.services.webhooks import (
    ROTATION_GRACE,
    check_webhook,
    create_webhook,
    remove_webhook,
    rotate_webhook,
    send_again,
)

admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(BaseGroupAdmin, ModelAdmin):  # type: ignore[misc]  # unfold publishes no types
    """Django's own, looked at by operators; Ratchet's roles are memberships."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)

    def has_view_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return is_operator(request)


@admin.register(User)
class UserAdmin(BaseUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]  # unfold publishes no types
    """Operators see people; only a superuser changes them, since this is where operators are made."""

    form, add_form, change_password_form = UserChangeForm, UserCreationForm, AdminPasswordChangeForm
    list_display = ("username", "first_name", "last_name", "is_staff", "is_active", "last_login")
    readonly_fields = ("last_login", "date_joined")

    def log_addition(self, request: HttpRequest, obj: User, message: Any) -> None:  # type: ignore[override]  # no second log
        subject = f"user:{obj.username}"
        record_audit(project=None, actor=actor_of(request), action="user.created", subject=subject)

    def log_change(self, request: HttpRequest, obj: User, message: Any) -> None:  # type: ignore[override]  # no second log
        """Fields, flags and passwords alike: what was changed, never to what. No second log beside."""
        detail = {"change": message}
        subject = f"user:{obj.username}"
        record_audit(
            project=None, actor=actor_of(request), action="user.changed", subject=subject, detail=detail
        )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)

    def has_view_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False  # judgements stay; take `active` away instead


@admin.register(Membership)
class MembershipAdmin(OperatorAdmin):
    list_display = ("user", "project", "role", "created")
    list_filter = ("role", "project")
    list_select_related = ("user", "project")
    search_fields = ("user__username", "project__slug")
    autocomplete_fields = ("user", "project")

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> tuple[str, ...]:
        return ("user", "project") if obj else ()

    def save_model(
        self, request: HttpRequest, obj: Membership, form: forms.ModelForm[Any], change: bool
    ) -> None:
        saved = add_member(project=obj.project, user=obj.user, role=obj.role, actor=actor_of(request))
        obj.pk = saved.pk

    def delete_model(self, request: HttpRequest, obj: Membership) -> None:
        remove_member(membership=obj, actor=actor_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> None:
        for membership in queryset.select_related("project", "user"):
            remove_member(membership=membership, actor=actor_of(request))


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable when it runs
    scopes = forms.MultipleChoiceField(
        choices=ApiKey.Scope.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text=gettext_lazy("What the program may do. Give it no more than it needs."),
    )

    class Meta:
        model = ApiKey
        fields = ("project", "name", "scopes", "expires")


@admin.register(ApiKey)
class ApiKeyAdmin(OperatorAdmin):
    """A key is made, shown once, and revoked; it is never changed."""

    form = ApiKeyForm
    list_display = ("name", "project", "prefix", "may", "expires", "revoked", "last_used")
    list_filter = ("project", "revoked")
    list_select_related = ("project",)
    search_fields = ("name", "prefix")
    actions = ("revoke", "rotate")
    fields = ("project", "name", "scopes", "expires")

    @admin.display(description=gettext_lazy("Scopes"))
    def may(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        if obj is None:
            return self.fields
        return (*self.fields, "prefix", "revoked", "last_used", "previous_until", "created_by", "created")

    def save_model(self, request: HttpRequest, obj: ApiKey, form: forms.ModelForm[Any], change: bool) -> None:
        key, value = create_api_key(
            project=obj.project,
            name=obj.name,
            scopes=list(obj.scopes),
            actor=actor_of(request),
            expires=obj.expires,
        )
        obj.pk, obj.prefix, obj.digest = key.pk, key.prefix, key.digest
        form.new_value = value  # type: ignore[attr-defined]  # handed on to response_add, and nowhere kept

    def save_form(self, request: HttpRequest, form: forms.ModelForm[Any], change: bool) -> Any:
        request.key_form = form  # type: ignore[attr-defined]
        return super().save_form(request, form, change)

    def response_add(
        self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        value: str = request.key_form.new_value  # type: ignore[attr-defined]
        return show_secret(self, request, [(str(obj), value)])

    @admin.action(description=gettext_lazy("Revoke"))
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        each(
            request,
            queryset.select_related("project"),
            lambda key: revoke_api_key(key=key, actor=actor_of(request)),
            done=gettext("Revoked"),
        )

    @admin.action(description=gettext_lazy("Give another value"))
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> HttpResponse | None:
        """The value before is good for a day more."""
        values: list[tuple[str, str]] = []

        def rotated(key: ApiKey) -> None:
            _, value = rotate_api_key(key=key, grace=ROTATION_GRACE, actor=actor_of(request))
            values.append((str(key), value))

        each(request, queryset.select_related("project"), rotated, done=gettext("Given another value"))
        return show_secret(self, request, values) if values else None


class WebhookForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable when it runs
    events = forms.MultipleChoiceField(
        choices=[(name, name) for name in EVENTS],
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text=gettext_lazy("None ticked: all of them."),
    )

    class Meta:
        model = WebhookEndpoint
        fields = ("project", "url", "events", "description")

    dates = ("previous_until", "disabled", "removed", "created")

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        try:
            check_webhook(url=data.get("url", ""), events=data.get("events", []))
        except Problem as problem:
            self.add_error(problem.param, problem.message)
        return data


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(OperatorAdmin):
    """An endpoint is made, given another secret, and removed; it is changed by REST."""

    form = WebhookForm
    list_display = ("url", "project", "events", "disabled", "removed", "created")
    list_filter = ("project", "removed")
    list_select_related = ("project",)
    search_fields = ("url", "description")
    actions = ("remove", "rotate")
    fields = ("project", "url", "events", "description")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: WebhookEndpoint | None = None) -> tuple[str, ...]:
        return self.fields if obj is None else (*self.fields, *self.dates)

    def save_model(
        self, request: HttpRequest, obj: WebhookEndpoint, form: forms.ModelForm[Any], change: bool
    ) -> None:
        made = create_webhook(
            project=obj.project,
            url=obj.url,
            events=obj.events,
            description=obj.description,
            actor=actor_of(request),
        )
        obj.pk, obj.secret = made.pk, made.secret

    def response_add(
        self, request: HttpRequest, obj: WebhookEndpoint, post_url_continue: str | None = None
    ) -> HttpResponse:
        return show_secret(self, request, [(obj.url, obj.secret)])

    @admin.action(description=gettext_lazy("Remove"))
    def remove(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> None:
        each(
            request,
            queryset.select_related("project"),
            lambda endpoint: remove_webhook(endpoint=endpoint, actor=actor_of(request)),
            done=gettext("Removed"),
        )

    @admin.action(description=gettext_lazy("Give another secret"))
    def rotate(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> HttpResponse | None:
        """For a day deliveries carry both signatures."""
        values = [
            (str(endpoint), rotate_webhook(endpoint=endpoint, actor=actor_of(request)).secret)
            for endpoint in queryset.select_related("project")
        ]
        return show_secret(self, request, values) if values else None


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(FactAdmin):
    """The outbox. Dead letters are those with the state `dead`."""

    list_display = ("event", "endpoint", "state", "attempts", "status", "error", "created", "delivered")
    list_filter = ("state", "event", "endpoint__project")
    list_select_related = ("endpoint",)
    search_fields = ("event_id", "endpoint__url")
    actions = ("again",)
    written_out = ("payload",)

    @admin.action(description=gettext_lazy("Send again"))
    def again(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        each(
            request,
            queryset.select_related("endpoint__project"),
            lambda delivery: send_again(delivery=delivery, actor=actor_of(request)),
            done=gettext("Sent again"),
        )


def show_secret(
    modeladmin: OperatorAdmin, request: HttpRequest, values: list[tuple[str, str]]
) -> HttpResponse:
    """The one page that shows secrets: (whose, value) of each, never cached."""
    context = {
        **modeladmin.admin_site.each_context(request),
        "title": gettext("Shown this once"),
        "opts": modeladmin.model._meta,
        "values": values,
    }
    response = TemplateResponse(request, "admin/secret_shown.html", context)
    response["Cache-Control"] = "no-store"
    return response


@admin.register(AuditEvent)
class AuditEventAdmin(FactAdmin):
    list_display = ("created", "action", "subject", "project", "user", "api_key")
    list_filter = ("action", "project")
    list_select_related = ("project", "user", "api_key")
    search_fields = ("action", "subject")
    written_out = ("detail",)
