"""Addresses of prompts, completions and feedback by REST."""

from __future__ import annotations

from django.urls import path

from feedback.api import completions, judgements, leaderboard, prompts, samples, set_aside, tasks
from projects.rest import at_one_path

urlpatterns = [
    path("prompts", at_one_path(prompts.ImportPrompts, prompts.ListPrompts).as_view()),
    path("prompts/<uuid:prompt_id>", prompts.ShowPrompt.as_view()),
    path("samples", at_one_path(samples.RequestSamples, samples.ListSamples).as_view()),
    path("samples/<uuid:sample_id>", samples.ShowSamples.as_view()),
    path("samples/<uuid:sample_id>/cancel", samples.CancelSamples.as_view()),
    path("completions", at_one_path(completions.CreateCompletion, completions.ListCompletions).as_view()),
    path("feedback", at_one_path(judgements.CreateFeedback, judgements.ListFeedback).as_view()),
    path("completions/<uuid:completion_id>", completions.ShowCompletion.as_view()),
    path("feedback/export", judgements.ExportFeedback.as_view()),
    path("feedback/batch", judgements.CreateFeedbackBatch.as_view()),
    path("set-aside", set_aside.ListSetAside.as_view()),
    path("set-aside/<uuid:completion_id>/release", set_aside.ReleaseAnswer.as_view()),
    path("tasks", tasks.ListTasks.as_view()),
    path("leaderboard", leaderboard.ShowLeaderboard.as_view()),
    path(
        "feedback/<uuid:feedback_id>",
        at_one_path(judgements.ShowFeedback, judgements.RetractFeedback).as_view(),
    ),
]
