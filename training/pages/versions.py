"""Versions: where each came from, how it does, what served when, and whether the engines agree."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from inference.models import Deployment, Version
from inference.services.engines import engines_shown
from inference.stats import version_latency
from projects.access import project_for
from projects.models import Membership
from training.models import Rollout
from training.pages.actions import choices_for
from training.pages.plots import quality_plot
from training.services.loop import quality_rows

WINDOWS = {"1h": timedelta(hours=1), "24h": timedelta(days=1), "7d": timedelta(days=7)}


@login_required
@never_cache
@require_GET
def versions(request: HttpRequest, slug: str) -> HttpResponse:
    project = project_for(request, slug, Membership.Role.MANAGER)
    window = request.GET.get("window", "24h")
    if window not in WINDOWS:
        window = "24h"
    choices = choices_for(project)
    found = (
        Version.objects.filter(project=project)
        .select_related("project", "run__dataset")
        .prefetch_related("evaluations__champion")
    )[:100]
    speeds = {row.version: row for row in version_latency(project, timezone.now() - WINDOWS[window])}
    quality = quality_rows(project)
    rows: list[dict[str, Any]] = [{**row, "speed": speeds.get(row["version"])} for row in reversed(quality)]
    if choices["rollout"] is None:  # the last one says how it ended
        last = Rollout.objects.filter(project=project).select_related("candidate", "champion").first()
        choices["rollout"] = last
    context = {
        **choices,
        "project": project,
        "is_manager": True,
        "versions": found,
        "metrics": rows,
        "metrics_rows": quality,
        "window": window,
        "windows": list(WINDOWS),
        "plot": quality_plot(quality),
        "deployments": Deployment.objects.filter(project=project).select_related(
            "champion", "canary", "user", "api_key"
        )[:50],
        "engines": engines_shown(project),
    }
    return render(request, "training/versions.html", context)
