"""What clients read: nothing leaves that is not named here."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db.models import prefetch_related_objects
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

from feedback.models import Correction, Feedback, Flag, Preference, Rating, SampleRequest
from inference.models import Completion, Prompt
from projects.rest import ErrorObjectSerializer, UtcField, list_of


class PromptSerializer(serializers.ModelSerializer[Prompt]):
    conversation_id = serializers.UUIDField(allow_null=True)
    created = UtcField()

    class Meta:
        model = Prompt
        fields = ["id", "messages", "split", "external_id", "tags", "conversation_id", "created"]


class CompletionSerializer(serializers.ModelSerializer[Completion]):
    prompt_id = serializers.UUIDField()
    version = serializers.CharField(source="version_label")
    created = UtcField()
    finished = UtcField(allow_null=True)

    class Meta:
        model = Completion
        fields = [
            "id", "prompt_id", "version", "digest", "index", "text", "state", "finish_reason", "error",
            "sampling", "subject", "quarantined", "tokens_in", "tokens_out", "ttft_ms", "gap_mean_ms",
            "gap_p99_ms", "total_ms", "created", "finished",
        ]  # fmt: skip


class SampleRequestSerializer(serializers.ModelSerializer[SampleRequest]):
    versions = serializers.ListField(child=serializers.CharField(), source="labels")
    created = UtcField()
    finished = UtcField(allow_null=True)

    class Meta:
        model = SampleRequest
        fields = [
            "id", "versions", "samples", "tags", "overlap", "sampling", "status", "message", "prompts",
            "done", "tasks", "alike", "refused", "created", "finished",
        ]  # fmt: skip


class _FeedbackSerializer(serializers.ModelSerializer[Any]):
    rater = serializers.SlugRelatedField[Any](slug_field="username", read_only=True)
    supersedes = serializers.UUIDField(source="supersedes_id", allow_null=True)
    created = UtcField()
    superseded = UtcField(allow_null=True)
    retracted = UtcField(allow_null=True)


COMMON = [
    "id", "kind", "source", "rater", "subject", "seconds_spent", "guideline_version",
    "created", "supersedes", "superseded", "retracted",
]  # fmt: skip


class RatingSerializer(_FeedbackSerializer):
    kind = serializers.CharField(read_only=True, default="rating")
    completion_id = serializers.UUIDField()

    class Meta:
        model = Rating
        fields = [*COMMON, "completion_id", "aspect", "value", "reasons", "comment"]


class PreferenceSerializer(_FeedbackSerializer):
    kind = serializers.CharField(read_only=True, default="preference")
    prompt_id = serializers.UUIDField()
    candidates = serializers.SerializerMethodField()
    ranks = serializers.SerializerMethodField()

    class Meta:
        model = Preference
        fields = [*COMMON, "prompt_id", "candidates", "ranks", "all_bad", "strength", "comment"]

    @extend_schema_field(serializers.ListField(child=serializers.UUIDField()))
    def get_candidates(self, row: Preference) -> list[str]:
        """Completion ids in the order in which they were shown."""
        return [str(side.completion_id) for side in row.candidates.all()]

    @extend_schema_field(serializers.ListField(child=serializers.IntegerField(), allow_null=True))
    def get_ranks(self, row: Preference) -> list[int | None] | None:
        return None if row.all_bad else [side.rank for side in row.candidates.all()]


class CorrectionSerializer(_FeedbackSerializer):
    kind = serializers.CharField(read_only=True, default="correction")
    completion_id = serializers.UUIDField()

    class Meta:
        model = Correction
        fields = [*COMMON, "completion_id", "text"]


class FlagSerializer(_FeedbackSerializer):
    kind = serializers.CharField(read_only=True, default="flag")
    completion_id = serializers.UUIDField()

    class Meta:
        model = Flag
        fields = [*COMMON, "completion_id", "reason", "comment"]


_SERIALIZERS: dict[type[Feedback], type[_FeedbackSerializer]] = {
    Rating: RatingSerializer,
    Preference: PreferenceSerializer,
    Correction: CorrectionSerializer,
    Flag: FlagSerializer,
}
JUDGEMENT = PolymorphicProxySerializer(
    component_name="Judgement",
    serializers=[RatingSerializer, PreferenceSerializer, CorrectionSerializer, FlagSerializer],
    resource_type_field_name="kind",
)

JUDGEMENTS = list_of(JUDGEMENT, "Judgement")


def judgement_data(row: Feedback) -> dict[str, Any]:
    if isinstance(row, Preference):
        prefetch_related_objects(
            [row], "candidates"
        )  # read twice below; nothing when a list has them already
    return dict(_serializer_of(type(row)).to_representation(row))


@cache
def _serializer_of(kind: type[Feedback]) -> _FeedbackSerializer:
    """One for all rows: a serializer makes its fields anew, which takes longer than showing a row does."""
    return _SERIALIZERS[kind]()


def judgements_data(rows: list[Feedback]) -> list[dict[str, Any]]:
    return [judgement_data(row) for row in rows]


class LineErrorSerializer(serializers.Serializer[Any]):
    line = serializers.IntegerField(help_text="Counted from 1.")
    code = serializers.CharField()
    message = serializers.CharField()


class PromptsImportedSerializer(serializers.Serializer[Any]):
    created = serializers.IntegerField()
    existing = serializers.IntegerField()
    failed = serializers.IntegerField(help_text="Lines that were refused.")
    # The name is the answer's; DRF keeps declared fields apart from its own attribute of that name.
    errors = LineErrorSerializer(many=True, help_text="The first hundred.")  # type: ignore[assignment]


class BatchResultSerializer(serializers.Serializer[Any]):
    status = serializers.IntegerField()
    id = serializers.UUIDField(required=False)
    error = ErrorObjectSerializer(required=False)


class BatchSerializer(serializers.Serializer[Any]):
    results = BatchResultSerializer(many=True)
