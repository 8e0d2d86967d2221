"""A preview or a dataset that a worker makes: how far it is, what came of it, and the way out."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from projects.access import project_for
from projects.errors import NotFound
from projects.models import Membership, Project
from training.models import Compilation
from training.pages.datasets import redirected, shown
from training.services.compilations import CompilationOver, cancel_compilation, preview_of


@login_required
@never_cache
@require_GET
def compilation(request: HttpRequest, slug: str, compilation_id: UUID) -> HttpResponse:
    """What came of it has its own page; a preview stands where the other previews do."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    found = _find(project, compilation_id)
    if found.dataset is not None:
        return redirected(request, "dataset", slug=slug, number=found.dataset.number)
    if found.status == Compilation.Status.DONE and found.run is not None:
        return redirected(request, "run", slug=slug, number=found.run.number)
    context: dict[str, Any] = {"project": project, "compilation": found}
    if found.result:
        context |= shown(preview_of(found))
        context["said"] = found.form
    template = "_compilation.html" if request.headers.get("HX-Request") == "true" else "compilation.html"
    return render(request, f"training/{template}", context)


@login_required
@never_cache
@require_POST
def cancel(request: HttpRequest, slug: str, compilation_id: UUID) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    found = _find(project, compilation_id)
    try:
        cancel_compilation(found)
    except CompilationOver:
        found.refresh_from_db()  # it was faster; the page says what became of it
    if request.headers.get("HX-Request") == "true":
        return render(request, "training/_compilation.html", {"project": project, "compilation": found})
    return redirect("compilation", slug=slug, compilation_id=found.pk)


def _find(project: Project, id_: UUID) -> Compilation:
    found = Compilation.objects.select_related("dataset").filter(project=project, pk=id_).first()
    if found is None:
        raise NotFound(gettext("There is no such compilation in this project."))
    return found
