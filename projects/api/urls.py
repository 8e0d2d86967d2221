"""Addresses of keys and webhooks by REST."""

from __future__ import annotations

from django.urls import path

from projects.api import keys, webhooks
from projects.rest import at_one_path

urlpatterns = [
    path("keys", at_one_path(keys.CreateKey, keys.ListKeys).as_view()),
    path("keys/<uuid:key_id>", keys.RevokeKey.as_view()),
    path("keys/<uuid:key_id>/rotate", keys.RotateKey.as_view()),
    path("webhooks", at_one_path(webhooks.CreateWebhook, webhooks.ListWebhooks).as_view()),
    path("webhooks/<uuid:webhook_id>", at_one_path(webhooks.ChangeWebhook, webhooks.RemoveWebhook).as_view()),
    path("webhooks/<uuid:webhook_id>/rotate", webhooks.RotateWebhook.as_view()),
    path("webhooks/deliveries", webhooks.ListDeliveries.as_view()),
    path("webhooks/deliveries/<uuid:delivery_id>/again", webhooks.SendAgain.as_view()),
]
