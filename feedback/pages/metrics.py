"""Metrics: latency, throughput and quality side by side by version, and what the engines hold."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models.functions import TruncDay, TruncHour, TruncMinute
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from feedback.pages.timeline import timeline
from feedback.stats import version_quality
from inference.models import Deployment
from inference.services.engines import engines_shown
from inference.stats import over_time, version_latency
from projects.access import project_for
from projects.errors import Invalid

# Window -> its length, and the step of its plots with its length in minutes.
WINDOWS = {
    "1h": (timedelta(hours=1), TruncMinute, 1),
    "24h": (timedelta(hours=24), TruncHour, 60),
    "7d": (timedelta(days=7), TruncHour, 60),
    "30d": (timedelta(days=30), TruncDay, 1440),
}
DRAWN = 4  # versions with a line; the table has them all
MARKS = 12  # the newest deployments


@login_required
@never_cache
@require_GET
def metrics(request: HttpRequest, slug: str) -> HttpResponse:
    """The page, or its numbers for a poll."""
    project = project_for(request, slug)
    window = request.GET.get("window", "24h")
    if window not in WINDOWS:
        raise Invalid(gettext("window must be one of 1h, 24h, 7d and 30d."), param="window")
    length, step, minutes = WINDOWS[window]
    now = timezone.now()
    since = now - length
    latency = {row.version: row for row in version_latency(project, since)}
    quality = {row.version: row for row in version_quality(project, since)}
    drawn = sorted(list(latency)[:DRAWN])
    moments = over_time(project, since, step)
    deployments = Deployment.objects.filter(project=project, created__gte=since).select_related("champion")
    plot: dict[str, Any] = {
        "versions": drawn,
        "deployed": [(one.created, f"v{one.champion.number}") for one in deployments[:MARKS]],
        "since": since,
        "until": now,
    }
    context = {
        "project": project,
        "window": window,
        "windows": WINDOWS,
        "rows": [
            (label, latency.get(label), quality.get(label))
            for label in sorted({*latency, *quality}, key=lambda label: (len(label), label), reverse=True)
        ],
        "is_sampled": any(row.sampled < row.completions + row.failed for row in latency.values()),
        "drawn": list(enumerate(drawn)),
        "waits": timeline(
            [(one.version, one.begin, one.ttft_ms_mean) for one in moments if one.ttft_ms_mean is not None],
            **plot,
        ),
        "rates": timeline([(one.version, one.begin, one.completions / minutes) for one in moments], **plot),
        "engines": engines_shown(project),
    }
    is_poll = request.headers.get("HX-Request") == "true"
    return render(request, "feedback/_metrics.html" if is_poll else "feedback/metrics.html", context)
