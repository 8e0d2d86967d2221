from django.urls import path

from inference import openai_api, pages

urlpatterns = [
    path("v1/models", openai_api.models, name="openai_models"),
    path("v1/models/<str:name>", openai_api.model, name="openai_model"),
    path("v1/chat/completions", openai_api.chat_completions, name="openai_chat"),
    path("p/<slug:slug>/completions/<uuid:completion_id>/stream", pages.stream, name="completion_stream"),
    path("p/<slug:slug>/completions/<uuid:completion_id>/stop", pages.stop, name="completion_stop"),
]
