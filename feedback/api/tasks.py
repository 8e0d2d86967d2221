"""`GET tasks`: what raters are asked, which strategy drew each, and the part that is an unbiased sample."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.models import Task
from feedback.services.draw import random_sample
from feedback.services.queue import FOR_RATERS
from projects.errors import Invalid
from projects.models import Project
from projects.rest import Paging, UtcField, key_of, list_of, read_query


class TaskSerializer(serializers.ModelSerializer[Task]):
    prompt_id = serializers.UUIDField()
    completion_ids = serializers.SerializerMethodField()
    strategy = serializers.CharField(help_text="That drew it into the line; empty in the backlog.")
    probability = serializers.FloatField(
        allow_null=True, help_text="With which `random` drew it; null for every other strategy."
    )
    created = UtcField()

    class Meta:
        model = Task
        fields = [
            "id", "kind", "source", "prompt_id", "completion_ids", "strategy", "probability", "uncertainty",
            "overlap", "held", "done", "is_open", "outcome", "agreement", "created",
        ]  # fmt: skip

    def get_completion_ids(self, task: Task) -> list[str]:
        return sorted(str(one.pk) for one in task.completions.all())


class ListTasks(APIView):
    """`sample=random` are those that a uniform draw has reached: what is measured on them has no bias."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_tasks",
        parameters=[
            OpenApiParameter("kind", enum=list(FOR_RATERS)),
            OpenApiParameter("strategy", enum=Task.Strategy.values),
            OpenApiParameter("sample", enum=["random"], description="Needs `kind`."),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=list_of(TaskSerializer, "Task"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, "kind", "strategy", "sample", "limit", "cursor")
        paging = Paging.read(query, name="tasks", key=key)
        tasks = _chosen(key.project, query).prefetch_related("completions")
        return Response(
            paging.answer(
                paging.rows(tasks, "id"), "id", as_data=lambda items: TaskSerializer(items, many=True).data
            )
        )


def _chosen(project: Project, query: dict[str, str]) -> QuerySet[Task]:
    """Raises Invalid. Gold is not among them: who reads this may rate."""
    allowed: dict[str, Any] = {"kind": FOR_RATERS, "strategy": Task.Strategy.values, "sample": ["random"]}
    for name, values in allowed.items():
        if name in query and query[name] not in values:
            raise Invalid(f"{name} must be one of {', '.join(values)}.", param=name)
    if "sample" in query and "kind" not in query:
        raise Invalid("A random sample is of one kind: say which.", param="kind")
    tasks = (
        random_sample(project, query["kind"]) if "sample" in query else Task.objects.filter(project=project)
    )
    filters = {name: query[name] for name in ("kind", "strategy") if name in query}
    return tasks.filter(gold__isnull=True, kind__in=FOR_RATERS, **filters)
