"""What clients read of datasets, runs, evaluations, versions and deployments; nothing leaves unnamed."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from feedback.api.answers import PromptsImportedSerializer
from inference.models import Deployment, Version
from projects.rest import UtcField
from training.models import Compilation, Dataset, Evaluation, Pipeline, Policy, Rollout, Run
from training.services.alarms import alarms_of
from training.services.policy_changes import FIELDS


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    cutoff = UtcField()
    created = UtcField()
    counts = serializers.SerializerMethodField()
    lengths = serializers.SerializerMethodField()
    balance = serializers.SerializerMethodField()
    gate_overlap = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = [
            "number", "format", "filters", "cutoff", "rows", "heldout_rows", "counts", "drops", "lengths",
            "balance", "gate_overlap", "digest", "status", "created",
        ]  # fmt: skip

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_counts(self, dataset: Dataset) -> dict[str, int]:
        return dict(dataset.manifest.get("counts", {}))

    @extend_schema_field(serializers.DictField(child=serializers.ListField(child=serializers.IntegerField())))
    def get_lengths(self, dataset: Dataset) -> dict[str, list[int]]:
        return dict(dataset.manifest.get("lengths", {}))

    @extend_schema_field(serializers.DictField(child=serializers.FloatField(allow_null=True)))
    def get_balance(self, dataset: Dataset) -> dict[str, float | None]:
        return dict(dataset.manifest.get("balance", {}))

    @extend_schema_field(serializers.DictField(child=serializers.IntegerField()))
    def get_gate_overlap(self, dataset: Dataset) -> dict[str, int]:
        return dict(dataset.manifest.get("gate_overlap", {}))


class PreviewSerializer(serializers.Serializer[Any]):
    """The answer to a dry run."""

    format = serializers.CharField()
    filters = serializers.DictField()
    cutoff = UtcField()
    rows = serializers.IntegerField()
    heldout_rows = serializers.IntegerField()
    counts = serializers.DictField(child=serializers.IntegerField())
    drops = serializers.DictField(child=serializers.IntegerField())
    lengths = serializers.DictField(child=serializers.ListField(child=serializers.IntegerField()))
    balance = serializers.DictField(child=serializers.FloatField(allow_null=True))
    gate_overlap = serializers.DictField(child=serializers.IntegerField())
    examples = serializers.ListField(child=serializers.DictField())


class CompilationSerializer(serializers.ModelSerializer[Compilation]):
    dataset = serializers.IntegerField(source="dataset.number", default=None, allow_null=True)
    run = serializers.SerializerMethodField(help_text="That it began; of a pipeline the first.")
    result = serializers.DictField(help_text="Of a preview that is done: as the answer to a dry run.")
    cutoff = UtcField()
    created = UtcField()
    finished = UtcField(allow_null=True)

    class Meta:
        model = Compilation
        fields = [
            "id", "kind", "format", "filters", "cutoff", "status", "read", "total", "message", "dataset",
            "run", "result", "created", "finished",
        ]  # fmt: skip

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_run(self, compilation: Compilation) -> int | None:
        run = compilation.run if compilation.kind in Compilation.BEGINNINGS else None
        return None if run is None else run.number


class DocumentsImportedSerializer(PromptsImportedSerializer):
    """What became of the lines."""


class RunSerializer(serializers.ModelSerializer[Run]):
    dataset = serializers.IntegerField(source="dataset.number")
    dataset_digest = serializers.CharField(source="dataset.digest")
    version = serializers.SerializerMethodField()
    reward = serializers.SerializerMethodField()
    start = serializers.SerializerMethodField()
    judged = serializers.SerializerMethodField()
    created = UtcField()
    started = UtcField(allow_null=True)
    finished = UtcField(allow_null=True)

    class Meta:
        model = Run
        fields = [
            "id", "number", "method", "dataset", "dataset_digest", "config", "seed", "status", "cause",
            "message", "attempt", "step", "total_steps", "metrics", "compute", "version", "reward", "start",
            "judged", "slot", "created", "started", "finished",
        ]  # fmt: skip

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_version(self, run: Run) -> str | None:
        return run.version.label if run.version else None

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_reward(self, run: Run) -> str | None:
        return run.reward.label if run.reward else None

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_start(self, run: Run) -> str | None:
        return run.start.label if run.start else None

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_judged(self, run: Run) -> str | None:
        return run.judged.label if run.judged else None


class AlarmSerializer(serializers.Serializer[Any]):
    """A sign that a run learns to please its score: length, kl, entropy, people or chosen."""

    name = serializers.CharField()
    words = serializers.CharField()


class RunShownSerializer(RunSerializer):
    """One run, with what its curves warn of."""

    alarms = serializers.SerializerMethodField()

    class Meta(RunSerializer.Meta):
        fields = [*RunSerializer.Meta.fields, "alarms"]

    @extend_schema_field(AlarmSerializer(many=True))
    def get_alarms(self, run: Run) -> list[dict[str, str]]:
        return [alarm.as_dict() for alarm in alarms_of(run)]


class EvaluationSerializer(serializers.ModelSerializer[Evaluation]):
    candidate = serializers.CharField(source="candidate.label")
    champion = serializers.CharField(source="champion.label")
    sample = serializers.BooleanField(source="is_sampled")
    prompt_ids = serializers.ListField(child=serializers.UUIDField())
    created = UtcField()
    decided = UtcField(allow_null=True)

    class Meta:
        model = Evaluation
        fields = [
            "number", "candidate", "champion", "sample", "status", "verdict", "reason", "numbers",
            "prompt_ids", "load_ms", "created", "decided",
        ]  # fmt: skip


class EvaluationInListSerializer(EvaluationSerializer):
    """Without the prompts: `GET evaluations/{n}` has them."""

    prompt_ids = None  # type: ignore[assignment]  # DRF's way to leave an inherited field out

    class Meta(EvaluationSerializer.Meta):
        fields = [name for name in EvaluationSerializer.Meta.fields if name != "prompt_ids"]


class ExampleSideSerializer(serializers.Serializer[Any]):
    """One version's answer; `faults` are the guards that it counts against."""

    completion_id = serializers.UUIDField()
    text = serializers.CharField()
    faults = serializers.ListField(child=serializers.CharField())


class ExampleSerializer(serializers.Serializer[Any]):
    """`scores` are the candidate's by vote: 1 won, 0.5 tie, 0 lost; `judge` the second judge's of both."""

    prompt_id = serializers.UUIDField(source="prompt.id")
    question = serializers.CharField(source="prompt.question")
    candidate = ExampleSideSerializer(allow_null=True)
    champion = ExampleSideSerializer(allow_null=True)
    scores = serializers.ListField(child=serializers.FloatField())
    judge = serializers.ListField(child=serializers.FloatField(), allow_null=True)
    winner = serializers.CharField(source="outcome")


class ExamplesSerializer(serializers.Serializer[Any]):
    items = ExampleSerializer(many=True)
    next = serializers.CharField(allow_null=True)


class EvaluationLineSerializer(serializers.ModelSerializer[Evaluation]):
    """An evaluation in its version's lineage."""

    champion = serializers.CharField(source="champion.label")
    win_rate = serializers.SerializerMethodField()

    class Meta:
        model = Evaluation
        fields = ["number", "champion", "status", "verdict", "win_rate"]

    @extend_schema_field(serializers.FloatField(allow_null=True))
    def get_win_rate(self, evaluation: Evaluation) -> float | None:
        rate: float | None = evaluation.numbers.get("win_rate")
        return rate


class VersionSerializer(serializers.ModelSerializer[Version]):
    """With its lineage: the run, the dataset and how many judgements made it, and what the gate said."""

    label = serializers.CharField()  # type: ignore[assignment]  # a field of ours, named as one of DRF's
    run = serializers.SerializerMethodField()
    dataset = serializers.SerializerMethodField()
    dataset_digest = serializers.SerializerMethodField()
    judgements = serializers.SerializerMethodField()
    evaluations = EvaluationLineSerializer(many=True)
    created = UtcField()

    class Meta:
        model = Version
        fields = [
            "number", "label", "kind", "status", "digest", "is_candidate", "run", "dataset", "dataset_digest",
            "judgements", "erased_behind", "evaluations", "created",
        ]  # fmt: skip

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_run(self, version: Version) -> int | None:
        run = _run_of(version)
        return run.number if run else None

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_dataset(self, version: Version) -> int | None:
        run = _run_of(version)
        return run.dataset.number if run else None

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_dataset_digest(self, version: Version) -> str | None:
        run = _run_of(version)
        return run.dataset.digest if run else None

    @extend_schema_field(serializers.IntegerField())
    def get_judgements(self, version: Version) -> int:
        """How many judgements went into its dataset; 0 for the base."""
        run = _run_of(version)
        return int(run.dataset.manifest.get("counts", {}).get("used", 0)) if run else 0


class DeploymentSerializer(serializers.ModelSerializer[Deployment]):
    version = serializers.SerializerMethodField()
    champion = serializers.CharField(source="champion.label")
    canary = serializers.SerializerMethodField()
    share = serializers.FloatField(source="canary_share")
    previous = serializers.SerializerMethodField()
    by = serializers.SerializerMethodField()
    load_ms = serializers.SerializerMethodField()
    created = serializers.SerializerMethodField()

    class Meta:
        model = Deployment
        fields = [
            "number", "kind", "version", "champion", "canary", "share", "previous", "reason", "by", "load_ms",
            "detail", "created",
        ]  # fmt: skip

    @extend_schema_field(serializers.CharField())
    def get_version(self, deployment: Deployment) -> str:
        """What this deployment brought: the canary while there is one, else the champion."""
        return (deployment.canary or deployment.champion).label

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_canary(self, deployment: Deployment) -> str | None:
        return deployment.canary.label if deployment.canary else None

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_previous(self, deployment: Deployment) -> str | None:
        return deployment.previous.label if deployment.previous else None

    @extend_schema_field(serializers.CharField())
    def get_by(self, deployment: Deployment) -> str:
        """Who: a person, a key, or `ratchet` for a policy."""
        return str(deployment.user or deployment.api_key or "ratchet")

    @extend_schema_field(serializers.FloatField(allow_null=True))
    def get_load_ms(self, deployment: Deployment) -> float | None:
        load_ms: float | None = deployment.detail.get("load_ms")
        return load_ms

    @extend_schema_field(serializers.DateTimeField())
    def get_created(self, deployment: Deployment) -> str:
        """Always with microseconds: the moment from which new requests go there."""
        return deployment.created.isoformat(timespec="microseconds").replace("+00:00", "Z")


class PolicySerializer(serializers.ModelSerializer[Policy]):
    would = serializers.CharField(read_only=True)

    class Meta:
        model = Policy
        fields = [*FIELDS, "version", "would"]


class StageSerializer(serializers.ModelSerializer[Run]):
    """A run as its pipeline shows it."""

    run = serializers.IntegerField(source="number")
    version = serializers.SerializerMethodField()

    class Meta:
        model = Run
        fields = ["stage", "run", "method", "status", "cause", "message", "version"]

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_version(self, run: Run) -> str | None:
        return run.version.label if run.version else None


class PipelineSerializer(serializers.ModelSerializer[Pipeline]):
    runs = serializers.SerializerMethodField()
    created = UtcField()
    finished = UtcField(allow_null=True)

    class Meta:
        model = Pipeline
        fields = [
            "number", "name", "stages", "configs", "filters", "status", "message", "runs", "created",
            "finished",
        ]  # fmt: skip

    @extend_schema_field(StageSerializer(many=True))
    def get_runs(self, pipeline: Pipeline) -> Any:
        rows = sorted(pipeline.runs.all(), key=lambda run: run.stage or 0)
        return StageSerializer(rows, many=True).data


class RolloutSerializer(serializers.ModelSerializer[Rollout]):
    candidate = serializers.CharField(source="candidate.label")
    champion = serializers.CharField(source="champion.label")
    share = serializers.FloatField()
    step_started = UtcField()
    created = UtcField()
    ended = UtcField(allow_null=True)

    class Meta:
        model = Rollout
        fields = [
            "number", "candidate", "champion", "status", "share", "shares", "step_started", "plan",
            "findings", "message", "created", "ended",
        ]  # fmt: skip


def _run_of(version: Version) -> Run | None:
    """The run that made it; the base has none."""
    found: Run | None = getattr(version, "run", None)
    return found
