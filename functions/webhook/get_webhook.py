"""Returns a webhook without its secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import WEBHOOK_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.lambda_adapter import lambda_handler
from functions.webhook import ENVIRONMENT_ID, WEBHOOK_ID

EXAMPLE: dict[str, Any] = {
    "id": WEBHOOK_ID,
    "environment_id": ENVIRONMENT_ID,
    "target_url": "https://example.com/events",
    "is_active": True,
    "event_types": [],
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_at": "2026-11-22T13:47:26.287044+00:00",
}


class GetWebhook(BaseModel):
    webhook_id: UUID


class Webhook(BaseModel):
    """`event_types`: the events that are delivered. Empty means all."""

    id: UUID
    environment_id: UUID
    target_url: str
    is_active: bool
    event_types: list[str]
    created_at: datetime
    updated_at: datetime


endpoint = Endpoint(
    __name__,
    "GET",
    path="/webhook/{webhook_id}",
    request=GetWebhook,
    response=Webhook,
    error_format=TRUTO,
    errors=(WEBHOOK_NOT_FOUND,),
    example_request={"webhook_id": WEBHOOK_ID},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
