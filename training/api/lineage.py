"""Lineage by REST: from any one thing, what it came from and what came of it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from feedback.api.answers import JUDGEMENTS, judgement_data, judgements_data
from inference.models import Version
from projects.errors import Invalid
from projects.rest import ErrorSerializer, Paging, key_of, read_query
from training.api.answers import EvaluationLineSerializer
from training.api.datasets import find_dataset
from training.models import Dataset, Run
from training.services.lineage import STARTS, behind, judgements_behind, lineage_from


class DatasetLineSerializer(serializers.ModelSerializer[Dataset]):
    judgements = serializers.SerializerMethodField(
        help_text="Behind its rows; datasets/{n}/feedback has them."
    )

    class Meta:
        model = Dataset
        fields = ["number", "format", "status", "digest", "rows", "heldout_rows", "judgements"]

    def get_judgements(self, dataset: Dataset) -> int:
        return behind(dataset)


class RunLineSerializer(serializers.ModelSerializer[Run]):
    dataset = serializers.IntegerField(source="dataset.number")
    reward = serializers.CharField(source="reward.label", default=None, allow_null=True)
    start = serializers.CharField(source="start.label", default=None, allow_null=True)
    version = serializers.CharField(source="version.label", default=None, allow_null=True)

    class Meta:
        model = Run
        fields = ["number", "method", "status", "dataset", "reward", "start", "version"]


class VersionLineSerializer(serializers.ModelSerializer[Version]):
    label = serializers.CharField()  # type: ignore[assignment]  # a field of ours, named as one of DRF's

    class Meta:
        model = Version
        fields = ["number", "label", "kind", "status", "digest", "erased_behind"]


class VerdictLineSerializer(EvaluationLineSerializer):
    candidate = serializers.CharField(source="candidate.label")

    class Meta(EvaluationLineSerializer.Meta):
        fields = ["number", "candidate", "champion", "status", "verdict", "win_rate"]


class DeploymentLineSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    kind = serializers.CharField()
    champion = serializers.CharField(source="champion.label")
    canary = serializers.CharField(source="canary.label", default=None, allow_null=True)
    evaluation = serializers.IntegerField(
        source="detail.evaluation", default=None, allow_null=True, help_text="The verdict it stands on."
    )


class LineageSerializer(serializers.Serializer[Any]):
    """Each list newest first."""

    feedback = serializers.DictField(allow_null=True, help_text="The judgement it starts from, if one.")
    datasets = DatasetLineSerializer(many=True)
    runs = RunLineSerializer(many=True)
    versions = VersionLineSerializer(many=True)
    evaluations = VerdictLineSerializer(many=True)
    deployments = DeploymentLineSerializer(many=True)


class ShowLineage(APIView):
    """Name exactly one: the id of a judgement, or the number of anything else (`version=v7`)."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="show_lineage",
        parameters=[OpenApiParameter(name, str) for name in STARTS],
        responses={200: LineageSerializer, 404: ErrorSerializer, 422: ErrorSerializer},
    )
    def get(self, request: Request) -> Response:
        query = read_query(request, *STARTS)
        if len(query) != 1:
            raise Invalid(f"Name one of {', '.join(STARTS)}, such as ?version=v7.")
        [(start, name)] = query.items()
        found = lineage_from(project=key_of(request).project, start=start, name=name)
        data = {
            "datasets": DatasetLineSerializer(found.datasets, many=True).data,
            "runs": RunLineSerializer(found.runs, many=True).data,
            "versions": VersionLineSerializer(found.versions, many=True).data,
            "evaluations": VerdictLineSerializer(found.evaluations, many=True).data,
            "deployments": DeploymentLineSerializer(found.deployments, many=True).data,
        }
        row = found.judgement
        return Response({"feedback": judgement_data(row) if row is not None else None, **data})


class ListDatasetFeedback(APIView):
    """The judgements behind a dataset's rows, oldest first."""

    scopes = {"GET": "data:read"}

    @extend_schema(
        operation_id="list_dataset_feedback",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=JUDGEMENTS,
    )
    def get(self, request: Request, number: int) -> Response:
        key = key_of(request)
        query = read_query(request, "limit", "cursor")
        dataset = find_dataset(key.project, number)
        paging = Paging.read(query, name=f"dataset feedback {number}", key=key)
        place = int(paging.after[0]) if paging.after else 0
        rows, total = judgements_behind(dataset, start=place, count=paging.limit)
        following = place + paging.limit
        return Response(
            {
                "items": judgements_data(rows),
                "next": paging.cursor_of([str(following)]) if following < total else None,
            }
        )
