"""What your labels changed: each rater's own, for that rater."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.forms import person
from projects.access import project_for
from training.services.taught import labels_taught


@login_required
@never_cache
@require_GET
def taught(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug)
    found = labels_taught(project=project, user=person(request))
    return render(request, "training/taught.html", {"project": project, "found": found})
