"""`GET metrics`: latency, throughput and quality by version, side by side."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.stats import version_quality
from inference.stats import version_latency
from projects.errors import Invalid
from projects.rest import ErrorSerializer, UtcField, key_of, read_query

MAX_WINDOW = timedelta(days=92)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class MetricsSerializer(serializers.Serializer[Any]):
    since = UtcField()
    window_seconds = serializers.FloatField()
    versions = serializers.ListField(
        child=serializers.DictField(),
        help_text="A row a version, the newest first: `latency` (null when it did not answer in the window) "
        "and `quality` (null when nobody judged it).",
    )


class ShowMetrics(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_metrics",
        parameters=[OpenApiParameter("window", description="Such as 30m, 24h (the default) or 7d.")],
        responses={200: MetricsSerializer, 422: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        project = key_of(request).project
        window = read_window(read_query(request, "window").get("window", "24h"))
        since = timezone.now() - window
        latency = {row.version: row.as_dict() for row in version_latency(project, since)}
        quality = {row.version: row.as_dict() for row in version_quality(project, since)}
        versions = [
            {"version": label, "latency": latency.get(label), "quality": quality.get(label)}
            for label in sorted(latency.keys() | quality.keys(), key=_number, reverse=True)
        ]
        return Response(
            MetricsSerializer(
                {"since": since, "window_seconds": window.total_seconds(), "versions": versions}
            ).data
        )


def read_window(text: str) -> timedelta:
    """`30m`, `24h`, `7d`. Raises Invalid."""
    match = re.fullmatch(r"([0-9]{1,6})([mhd])", text, re.ASCII)
    window = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not timedelta(0) < window <= MAX_WINDOW:
        raise Invalid("window must be such as 30m, 24h or 7d, at most 92d.", param="window")
    return window


def _number(label: str) -> tuple[int, str]:
    """Our versions by their number; labels of answers made elsewhere come last."""
    number = label.rpartition("@v")[2]
    return (int(number) if "@v" in label and number.isdecimal() else -1, label)
