"""Prompts from a file that a manager chooses: what came of it, and why which lines were refused."""

from __future__ import annotations

from typing import IO, Any, cast

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from feedback.imports import COLUMNS, PromptImport, from_csv, from_lines
from projects.access import project_for
from projects.bodies import read_lines
from projects.errors import Invalid, Problem, TooLarge
from projects.models import Membership, Project

# A file that is read while the browser waits. `manage.py import_prompts` and the API take any size.
MOST_BYTES = 20_000_000
FORMS = {"csv": ("csv",), "jsonl": ("jsonl", "ndjson", "json")}


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def import_prompts(request: HttpRequest, slug: str) -> HttpResponse:
    """The same file again changes nothing; the lines that are right are taken whatever the others say."""
    project = project_for(request, slug, Membership.Role.MANAGER)
    context = {"project": project, "columns": COLUMNS, "most_mb": MOST_BYTES // 1_000_000}
    if request.method == "POST":
        try:
            context["done"] = _take(project, request.FILES.get("file"))
        except Problem as problem:
            context["refusal"] = problem.message
    return render(request, "feedback/import_prompts.html", context)


def _take(project: Project, file: UploadedFile[Any] | None) -> PromptImport:
    """Raises Invalid, TooLarge."""
    if file is None or not file.size:
        raise Invalid(gettext("Choose a file that is not empty."), param="file")
    if file.size > MOST_BYTES:
        raise TooLarge(
            gettext("The file is too large for this page. Use manage.py import_prompts, or the API.")
        )
    ending = (file.name or "").rpartition(".")[2].lower()
    form = next((form for form, endings in FORMS.items() if ending in endings), None)
    if form is None:
        raise Invalid(gettext("The name of the file must end in .csv or .jsonl."), param="file")
    # An uploaded file reads as any other.
    opened = cast(IO[bytes], file)
    entries = (
        from_csv(opened) if form == "csv" else from_lines(read_lines(opened, limit=settings.MAX_BODY_BYTES))
    )
    done = PromptImport(project, may_audit=True)
    for _ in done.run(entries):
        pass
    if not done.total:
        raise Invalid(gettext("There is no line in the file."), param="file")
    return done
