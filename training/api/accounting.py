"""`GET accounting`: what learning and serving cost in a window."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.rest import ErrorSerializer, UtcField, key_of, read_query
from training.api.metrics import read_window
from training.services.account import Cost, account_of


class CostSerializer(serializers.Serializer[Any]):
    device_hours = serializers.FloatField()
    tokens = serializers.DictField(child=serializers.IntegerField(), help_text="By the role of the model.")
    flops = serializers.DictField(
        child=serializers.FloatField(), help_text="forward, backward, generation, total."
    )
    pf_days = serializers.FloatField()


class AccountSerializer(serializers.Serializer[Any]):
    since = UtcField()
    until = UtcField()
    total = CostSerializer()
    runs = serializers.ListField(
        child=serializers.DictField(), help_text="A cost each, with run, method, status, version."
    )
    versions = serializers.ListField(
        child=serializers.DictField(),
        help_text="A cost each of all runs behind it, with win_rate, points above one half and device hours "
        "for each (`hours_per_point`, null where nothing was won).",
    )
    days = serializers.ListField(child=serializers.DictField(), help_text="Device hours by method.")
    served = serializers.DictField(child=serializers.IntegerField())
    budgets = serializers.ListField(
        child=serializers.DictField(), help_text="Device hours: period, used, limit."
    )


class ShowAccounting(APIView):
    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_accounting",
        parameters=[OpenApiParameter("window", description="Such as 24h, 7d or 30d (the default).")],
        responses={200: AccountSerializer, 422: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        window = read_window(read_query(request, "window").get("window", "30d"))
        found = account_of(key_of(request).project, since=timezone.now() - window)
        data = {
            "since": found.since,
            "until": found.until,
            "total": cost_data(found.total),
            "runs": [
                {
                    "run": one.run.number,
                    "method": one.run.method,
                    "status": one.run.status,
                    "version": one.run.version.number if one.run.version else None,
                    **cost_data(one.cost),
                }
                for one in found.runs
            ],
            "versions": [
                {
                    "version": one.number,
                    "runs": one.runs,
                    "win_rate": one.win_rate,
                    "points": one.points,
                    "hours_per_point": one.hours_per_point,
                    **cost_data(one.cost),
                }
                for one in found.versions
            ],
            "days": [{"day": day.isoformat(), **hours} for day, hours in found.days],
            "served": vars(found.served),
            "budgets": [vars(one) for one in found.budgets],
        }
        return Response(AccountSerializer(data).data)


def cost_data(cost: Cost) -> dict[str, Any]:
    return {
        "device_hours": cost.device_hours,
        "tokens": cost.tokens,
        "flops": {
            "forward": cost.forward,
            "backward": cost.backward,
            "generation": cost.generation,
            "total": cost.flops,
        },
        "pf_days": cost.pf_days,
    }
