"""Webhooks by REST: endpoints, their secrets, and what became of each delivery."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from projects.api.answers import DeliverySerializer, NewWebhookSerializer, WebhookSerializer
from projects.api.bodies import NothingBody, RotateBody, WebhookBody, WebhookChange
from projects.bodies import parse_body, read_uuid
from projects.errors import Invalid, NotFound
from projects.idempotency import idempotent
from projects.models import ApiKey, WebhookDelivery, WebhookEndpoint
from projects.rest import ErrorSerializer, Paging, key_of, list_of, read_query
from projects.services import Actor
from projects.services.webhooks import (
    change_webhook,
    create_webhook,
    remove_webhook,
    rotate_webhook,
    send_again,
)


class CreateWebhook(APIView):
    """A new endpoint. Its secret, by which the receiver checks signatures, is shown this once."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="create_webhook",
        request=WebhookBody,
        responses={201: NewWebhookSerializer, 409: ErrorSerializer, 422: ErrorSerializer},
    )
    @idempotent(hide=("secret",))
    def post(self, request: Request) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(WebhookBody, request.data)
        endpoint = create_webhook(
            project=key.project,
            url=body.url,
            events=body.events,
            description=body.description,
            actor=Actor(api_key=key),
        )
        return Response(NewWebhookSerializer(endpoint).data, status=201)


class ListWebhooks(APIView):
    scopes = {"GET": "manage"}

    @extend_schema(
        operation_id="list_webhooks",
        parameters=[OpenApiParameter("limit", int), OpenApiParameter("cursor")],
        responses=list_of(WebhookSerializer, "Webhook"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        paging = Paging.read(read_query(request, "limit", "cursor"), name="webhooks", key=key)
        rows = paging.rows(WebhookEndpoint.objects.filter(project=key.project_id, removed=None), "id")
        return Response(
            paging.answer(rows, "id", as_data=lambda items: WebhookSerializer(items, many=True).data)
        )


class ChangeWebhook(APIView):
    """Another address, other events, or off and on again; the secret stays."""

    scopes = {"PATCH": "manage"}

    @extend_schema(
        operation_id="change_webhook",
        request=WebhookChange,
        responses={200: WebhookSerializer, 404: ErrorSerializer, 422: ErrorSerializer},
    )
    def patch(self, request: Request, webhook_id: UUID) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(WebhookChange, request.data)
        endpoint = change_webhook(
            endpoint=_find(key, webhook_id), **body.model_dump(exclude_unset=True), actor=Actor(api_key=key)
        )
        return Response(WebhookSerializer(endpoint).data)


class RemoveWebhook(APIView):
    """No more events go there; what still waits becomes a dead letter."""

    scopes = {"DELETE": "manage"}

    @extend_schema(operation_id="remove_webhook", responses={200: WebhookSerializer, 404: ErrorSerializer})
    def delete(self, request: Request, webhook_id: UUID) -> Response:
        key = key_of(request)
        read_query(request)
        endpoint = _find(key, webhook_id)
        remove_webhook(endpoint=endpoint, actor=Actor(api_key=key))
        return Response(WebhookSerializer(endpoint).data)


class RotateWebhook(APIView):
    """Another secret. For `grace_seconds` (a day unless it is said) deliveries carry both signatures."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="rotate_webhook",
        request=RotateBody,
        responses={200: NewWebhookSerializer, 404: ErrorSerializer},
    )
    @idempotent(hide=("secret",))
    def post(self, request: Request, webhook_id: UUID) -> Response:
        key = key_of(request)
        read_query(request)
        body = parse_body(RotateBody, request.data)
        endpoint = rotate_webhook(
            endpoint=_find(key, webhook_id),
            grace=timedelta(seconds=body.grace_seconds),
            actor=Actor(api_key=key),
        )
        return Response(NewWebhookSerializer(endpoint).data)


class ListDeliveries(APIView):
    """The outbox, newest first; `state=dead` are the dead letters."""

    scopes = {"GET": "manage"}

    @extend_schema(
        operation_id="list_deliveries",
        parameters=[
            OpenApiParameter("state", enum=WebhookDelivery.State.values),
            OpenApiParameter("webhook_id", description="Deliveries to this endpoint."),
            OpenApiParameter("limit", int),
            OpenApiParameter("cursor"),
        ],
        responses=list_of(DeliverySerializer, "Delivery"),
    )
    def get(self, request: Request) -> Response:
        key = key_of(request)
        query = read_query(request, "state", "webhook_id", "limit", "cursor")
        paging = Paging.read(query, name="deliveries", key=key)
        deliveries = WebhookDelivery.objects.filter(endpoint__project=key.project_id)
        if "state" in query:
            if query["state"] not in WebhookDelivery.State.values:
                raise Invalid(
                    f"state must be one of {', '.join(WebhookDelivery.State.values)}.", param="state"
                )
            deliveries = deliveries.filter(state=query["state"])
        if "webhook_id" in query:
            try:
                deliveries = deliveries.filter(endpoint=read_uuid(query["webhook_id"]))
            except ValueError as error:
                raise Invalid(f"webhook_id {error}.", param="webhook_id") from error
        rows = paging.rows(deliveries, "id")
        return Response(
            paging.answer(rows, "id", as_data=lambda items: DeliverySerializer(items, many=True).data)
        )


class SendAgain(APIView):
    """Try a dead letter, or a delivered one, anew. One that waits anyway is left as it is."""

    scopes = {"POST": "manage"}

    @extend_schema(
        operation_id="send_delivery_again",
        request=NothingBody,
        responses={200: DeliverySerializer, 404: ErrorSerializer, 409: ErrorSerializer},
    )
    @idempotent()
    def post(self, request: Request, delivery_id: UUID) -> Response:
        key = key_of(request)
        read_query(request)
        parse_body(NothingBody, request.data)
        delivery = (
            WebhookDelivery.objects.select_related("endpoint__project")
            .filter(endpoint__project=key.project_id, pk=delivery_id)
            .first()
        )
        if delivery is None:
            raise NotFound("There is no such delivery in this project.")
        send_again(delivery=delivery, actor=Actor(api_key=key))
        return Response(DeliverySerializer(delivery).data)


def _find(key: ApiKey, webhook_id: UUID) -> WebhookEndpoint:
    found = WebhookEndpoint.objects.select_related("project").filter(
        project=key.project_id, pk=webhook_id, removed=None
    )
    endpoint = found.first()
    if endpoint is None:
        raise NotFound("There is no such webhook in this project.")
    return endpoint
