"""Creates a webhook. Only this response shows its secret, with which deliveries are signed."""

from __future__ import annotations

from uuid import UUID

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import OTHER_ORGANIZATION
from functions._shared.error_format import TRUTO
from functions._shared.fields import StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.webhook import EventTypes, TargetUrl
from functions.webhook.get_webhook import EXAMPLE, Webhook


class CreateWebhook(StrictRequest):
    """`event_types`: the events to deliver, by default all."""

    target_url: TargetUrl
    event_types: EventTypes | None = None
    is_active: bool | None = None
    environment_id: UUID | None = None


class WebhookCreated(Webhook):
    """`secret`: every delivery carries `X-Truto-Signature: format=sha256,v=<hex HMAC-SHA256 of the body>`."""

    secret: str


endpoint = Endpoint(
    __name__,
    "POST",
    path="/webhook",
    request=CreateWebhook,
    response=WebhookCreated,
    error_format=TRUTO,
    idempotent=False,
    errors=(OTHER_ORGANIZATION,),
    example_request={"target_url": "https://example.com/events"},
    example_response={**EXAMPLE, "secret": "…"},
)
handler = lambda_handler(endpoint)
