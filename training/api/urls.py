"""Addresses of datasets, runs, evaluations, versions, deployments and metrics by REST."""

from __future__ import annotations

from django.urls import path, register_converter
from django.urls.converters import IntConverter

from projects.rest import at_one_path
from training.api import (
    accounting,
    datasets,
    documents,
    erasures,
    evaluations,
    events,
    lineage,
    metrics,
    pipelines,
    policies,
    rollouts,
    runs,
    versions,
)


class NumberConverter(IntConverter):
    """A number that fits its column; a longer one is an address that does not exist."""

    regex = "[0-9]{1,9}"


register_converter(NumberConverter, "number")

urlpatterns = [
    path("documents", documents.ImportDocuments.as_view()),
    path("datasets", at_one_path(datasets.CompileDataset, datasets.ListDatasets).as_view()),
    path("compilations/<uuid:compilation_id>", datasets.ShowCompilation.as_view()),
    path("compilations/<uuid:compilation_id>/cancel", datasets.CancelCompilation.as_view()),
    path("datasets/<number:number>", datasets.ShowDataset.as_view()),
    path("datasets/<number:number>/rows", datasets.DownloadDataset.as_view()),
    path("datasets/<number:number>/feedback", lineage.ListDatasetFeedback.as_view()),
    path("lineage", lineage.ShowLineage.as_view()),
    path("erasures", at_one_path(erasures.RequestErasure, erasures.ListErasures).as_view()),
    path("erasures/<number:number>", erasures.ShowErasure.as_view()),
    path("erasures/<number:number>/retrain", erasures.RetrainWithout.as_view()),
    path("runs", at_one_path(runs.CreateRun, runs.ListRuns).as_view()),
    path("runs/<number:number>", runs.ShowRun.as_view()),
    path("runs/<number:number>/events", events.run_events),
    path("runs/<number:number>/cancel", runs.CancelRun.as_view()),
    path("runs/<number:number>/resume", runs.ResumeRun.as_view()),
    path("evaluations", at_one_path(evaluations.CreateEvaluation, evaluations.ListEvaluations).as_view()),
    path("evaluations/<number:number>", evaluations.ShowEvaluation.as_view()),
    path("evaluations/<number:number>/examples", evaluations.ListExamples.as_view()),
    path("evaluations/<number:number>/decide", evaluations.DecideEvaluation.as_view()),
    path("versions", versions.ListVersions.as_view()),
    path("deployments", at_one_path(versions.Deploy, versions.ListDeployments).as_view()),
    path("policy", at_one_path(policies.ChangePolicy, policies.ShowPolicy).as_view()),
    path("pipelines", at_one_path(pipelines.StartPipeline, pipelines.ListPipelines).as_view()),
    path("pipelines/<number:number>", pipelines.ShowPipeline.as_view()),
    path("pipelines/<number:number>/cancel", pipelines.CancelPipeline.as_view()),
    path("rollouts", rollouts.ListRollouts.as_view()),
    path("rollouts/<number:number>", rollouts.ShowRollout.as_view()),
    path("rollouts/<number:number>/pause", rollouts.PauseRollout.as_view()),
    path("rollouts/<number:number>/resume", rollouts.ResumeRollout.as_view()),
    path("rollouts/<number:number>/finish", rollouts.FinishRollout.as_view()),
    path("rollouts/<number:number>/rollback", rollouts.RollBackRollout.as_view()),
    path("accounting", accounting.ShowAccounting.as_view()),
    path("metrics", metrics.ShowMetrics.as_view()),
]
