"""Changes the given fields of a webhook."""

from __future__ import annotations

from uuid import UUID

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import WEBHOOK_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.fields import StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.webhook import WEBHOOK_ID, EventTypes, TargetUrl
from functions.webhook.get_webhook import EXAMPLE, Webhook


class UpdateWebhook(StrictRequest):
    webhook_id: UUID
    target_url: TargetUrl | None = None
    event_types: EventTypes | None = None
    is_active: bool | None = None


endpoint = Endpoint(
    __name__,
    "PATCH",
    path="/webhook/{webhook_id}",
    request=UpdateWebhook,
    response=Webhook,
    error_format=TRUTO,
    idempotent=False,
    errors=(WEBHOOK_NOT_FOUND,),
    example_request={"webhook_id": WEBHOOK_ID, "is_active": False},
    example_response={**EXAMPLE, "is_active": False},
)
handler = lambda_handler(endpoint)
