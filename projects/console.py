"""What all rooms share in the console: operators see all, facts are read-only, actions call services."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_lazy
from unfold.admin import ModelAdmin, TabularInline
from unfold.widgets import UnfoldAdminTextareaWidget

from projects.errors import Problem
from projects.models import User
from projects.services import Actor


def is_operator(request: HttpRequest) -> bool:
    return isinstance(request.user, User) and request.user.is_operator


def actor_of(request: HttpRequest) -> Actor:
    return Actor(user=request.user if isinstance(request.user, User) else None)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # it cannot be subscripted
    """Counts as far as anybody leafs: a million rows took a tenth of a second to count, for a number."""

    MOST = 10_000
    template_name = "admin/bounded_pagination.html"  # which unfold looks for

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        return rows.order_by()[: self.MOST].count() if isinstance(rows, QuerySet) else len(rows)

    @property
    def is_bounded(self) -> bool:
        """Whether there may be more than `count`."""
        return self.count >= self.MOST


class OperatorAdmin(ModelAdmin):  # type: ignore[misc]  # unfold publishes no types
    """Every operator may see and change; nothing is deleted from here."""

    list_per_page = 50
    paginator = BoundedPaginator
    show_full_result_count = False
    warn_unsaved_form = True

    # The services that are called write the one audit trail; Django's second one would say less.
    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        return None

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        return None

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        return None

    def has_module_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_operator(request)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class FactAdmin(OperatorAdmin):
    """Rows that only services write: looked at here, and acted on through actions."""

    # Fields whose JSON or text is shown as it is, with its line breaks.
    written_out: Sequence[str] = ()

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        names = [field.name for field in self.model._meta.fields]
        return [f"{name}_written_out" if name in self.written_out else name for name in names]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        return self.get_fields(request, obj)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.written_out:
            setattr(cls, f"{name}_written_out", _written_out(name))


class FactInline(TabularInline):  # type: ignore[misc]  # unfold publishes no types
    extra = 0
    can_delete = False
    show_change_link = True

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return is_operator(request)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def each(request: HttpRequest, rows: Iterable[Any], act: Callable[[Any], object], *, done: str) -> None:
    """Call a service for each row: say how many went well, and each refusal once."""
    count, refusals = 0, []
    for row in rows:
        try:
            act(row)
        except Problem as problem:
            refusals.append(f"{row}: {problem.message}")
        else:
            count += 1
    if count:
        messages.success(request, f"{done}: {count}")
    for refusal in dict.fromkeys(refusals):
        messages.error(request, refusal)


class ReasonForm(forms.Form):
    """What every change of what serves must say."""

    reason = forms.CharField(
        label=gettext_lazy("Reason"), max_length=500, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2})
    )


def ask_first(
    modeladmin: ModelAdmin,
    request: HttpRequest,
    rows: QuerySet[Any],
    *,
    action: str,
    title: str,
    form: type[forms.Form],
    act: Callable[[Any, dict[str, Any]], object],
    done: str,
) -> HttpResponse | None:
    """A page between an action and its service: a form with a reason, then the call."""
    filled = form(request.POST if "confirmed" in request.POST else None)
    if filled.is_valid():
        each(request, rows, lambda row: act(row, filled.cleaned_data), done=done)
        return None
    context = {
        **modeladmin.admin_site.each_context(request),
        "title": title,
        "opts": modeladmin.model._meta,
        "rows": rows,
        "form": filled,
        "action": action,
        "checkbox": helpers.ACTION_CHECKBOX_NAME,
        "media": modeladmin.media,
    }
    return TemplateResponse(request, "admin/ask_first.html", context)


def _written_out(name: str) -> Callable[[Any, Model], SafeString]:
    @admin.display(description=name.replace("_", " "))
    def show(self: Any, row: Model) -> SafeString:
        value = getattr(row, name)
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        return format_html('<pre class="whitespace-pre-wrap break-words">{}</pre>', text)

    return show


def link_to_page(url: str, text: str | None = None) -> SafeString:
    return format_html('<a class="underline" href="{}">{}</a>', url, text or gettext("Open"))
