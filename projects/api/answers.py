"""What clients read of keys and webhooks; nothing leaves that is not named here."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from projects.models import ApiKey, WebhookDelivery, WebhookEndpoint
from projects.rest import UtcField


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    scopes = serializers.ListField(child=serializers.CharField())
    expires = UtcField(allow_null=True)
    revoked = UtcField(allow_null=True)
    last_used = UtcField(allow_null=True)
    previous_until = UtcField(
        allow_null=True, help_text="Until when the secret before the last rotation is good."
    )
    created = UtcField()

    class Meta:
        model = ApiKey
        fields = [
            "id", "name", "prefix", "scopes", "expires", "revoked", "last_used", "previous_until", "created",
        ]  # fmt: skip


class NewKeySerializer(KeySerializer):
    """A key with its value, which is shown this once; null when an Idempotency-Key was replayed."""

    key = serializers.CharField(allow_null=True)

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "key"]


class WebhookSerializer(serializers.ModelSerializer[WebhookEndpoint]):
    events = serializers.ListField(child=serializers.CharField(), help_text="Empty for all.")
    enabled = serializers.BooleanField(source="is_enabled")
    previous_until = UtcField(allow_null=True, help_text="Until when deliveries carry both signatures.")
    created = UtcField()

    class Meta:
        model = WebhookEndpoint
        fields = ["id", "url", "description", "events", "enabled", "previous_until", "created"]


class NewWebhookSerializer(WebhookSerializer):
    """An endpoint with its secret, which is shown this once; null when an Idempotency-Key was replayed."""

    secret = serializers.CharField(allow_null=True)

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "secret"]


class DeliverySerializer(serializers.ModelSerializer[WebhookDelivery]):
    webhook_id = serializers.UUIDField(source="endpoint_id")
    event_id = serializers.UUIDField(help_text="The header webhook-id.")
    due = serializers.SerializerMethodField()
    delivered = UtcField(allow_null=True)
    created = UtcField()

    class Meta:
        model = WebhookDelivery
        fields = [
            "id", "webhook_id", "event_id", "event", "state", "attempts", "due", "status", "error",
            "delivered", "created",
        ]  # fmt: skip

    def get_due(self, row: WebhookDelivery) -> str | None:
        """When it is tried next; null when it is over."""
        if row.state != WebhookDelivery.State.PENDING:
            return None
        shown: Any = UtcField().to_representation(row.due)
        return str(shown)
