"""Addresses of the loop and what it is made of."""

from django.urls import path

from training.pages import (
    accounting,
    actions,
    comparing,
    compilations,
    datasets,
    erasures,
    evaluations,
    lineage,
    loop,
    policy,
    runs,
    taught,
    versions,
)

urlpatterns = [
    path("p/<slug:slug>/", loop.loop, name="loop"),
    path("p/<slug:slug>/datasets/", datasets.datasets, name="datasets"),
    path("p/<slug:slug>/datasets/compose", datasets.compose_dataset, name="compose_dataset"),
    path("p/<slug:slug>/datasets/jobs/<uuid:compilation_id>/", compilations.compilation, name="compilation"),
    path(
        "p/<slug:slug>/datasets/jobs/<uuid:compilation_id>/cancel",
        compilations.cancel,
        name="cancel_compilation",
    ),
    path("p/<slug:slug>/datasets/<int:number>/", datasets.dataset, name="dataset"),
    path("p/<slug:slug>/runs/", runs.runs, name="runs"),
    path("p/<slug:slug>/runs/start", actions.start_run, name="start_run"),
    path("p/<slug:slug>/runs/plan", runs.run_plan, name="run_plan"),
    path("p/<slug:slug>/runs/compare", comparing.compare_runs, name="compare_runs"),
    path("p/<slug:slug>/runs/<int:number>/", runs.run, name="run"),
    path("p/<slug:slug>/runs/<int:number>/events", runs.run_events, name="run_events"),
    path("p/<slug:slug>/runs/<int:number>/cancel", actions.stop_run, name="cancel_run"),
    path("p/<slug:slug>/runs/<int:number>/resume", actions.go_on_with_run, name="resume_run"),
    path("p/<slug:slug>/evaluations/start", actions.evaluate, name="start_evaluation"),
    path("p/<slug:slug>/evaluations/<int:number>/", evaluations.evaluation, name="evaluation"),
    path(
        "p/<slug:slug>/evaluations/<int:number>/decide", actions.decide_evaluation, name="decide_evaluation"
    ),
    path("p/<slug:slug>/taught/", taught.taught, name="taught"),
    path("p/<slug:slug>/lineage/", lineage.find_lineage, name="find_lineage"),
    path("p/<slug:slug>/lineage/<slug:start>/<slug:name>/", lineage.lineage, name="lineage"),
    path("p/<slug:slug>/evaluations/<int:number>/approve", actions.approve, name="approve"),
    path("p/<slug:slug>/policy/", policy.policy, name="policy"),
    path("p/<slug:slug>/policy/change", policy.change_policy, name="change_policy"),
    path("p/<slug:slug>/pipelines/start", actions.begin_pipeline, name="start_pipeline"),
    path("p/<slug:slug>/pipelines/<int:number>/cancel", actions.stop_pipeline, name="cancel_pipeline"),
    path("p/<slug:slug>/accounting/", accounting.accounting, name="accounting"),
    path("p/<slug:slug>/erasures/", erasures.erasures, name="erasures"),
    path("p/<slug:slug>/erasures/ask", erasures.ask, name="ask_erasure"),
    path("p/<slug:slug>/erasures/confirm", erasures.confirm, name="confirm_erasure"),
    path("p/<slug:slug>/erasures/<int:number>/", erasures.erasure, name="erasure"),
    path("p/<slug:slug>/erasures/<int:number>/report", erasures.report, name="erasure_report"),
    path("p/<slug:slug>/erasures/<int:number>/retrain", erasures.retrain, name="retrain_without"),
    path("p/<slug:slug>/versions/", versions.versions, name="versions"),
    path("p/<slug:slug>/versions/promote", actions.promote, name="promote"),
    path("p/<slug:slug>/rollouts/<int:number>/steer", actions.steer_rollout, name="steer_rollout"),
    path("p/<slug:slug>/versions/roll-back", actions.roll_back, name="roll_back"),
]
