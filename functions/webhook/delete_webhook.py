"""Deletes a webhook and its secret, and stops the runs that deliver to it."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import WEBHOOK_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.lambda_adapter import lambda_handler
from functions.webhook import WEBHOOK_ID


class DeleteWebhook(BaseModel):
    webhook_id: UUID


class WebhookDeleted(BaseModel):
    id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/webhook/{webhook_id}",
    request=DeleteWebhook,
    response=WebhookDeleted,
    error_format=TRUTO,
    errors=(WEBHOOK_NOT_FOUND,),
    example_request={"webhook_id": WEBHOOK_ID},
    example_response={"id": WEBHOOK_ID},
)
handler = lambda_handler(endpoint)
