"""Lists your agency's webhooks without their secrets."""

from __future__ import annotations

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import TRUTO
from functions._shared.filters import FILTER_ERRORS, FilteredList, Page
from functions._shared.lambda_adapter import lambda_handler
from functions.webhook.get_webhook import EXAMPLE, Webhook


class ListWebhooks(FilteredList):
    filterable = ("id", "environment_id", "target_url", "is_active", "created_at", "updated_at")


class Webhooks(Page):
    result: list[Webhook]


endpoint = Endpoint(
    __name__,
    "GET",
    path="/webhook",
    request=ListWebhooks,
    response=Webhooks,
    error_format=TRUTO,
    errors=FILTER_ERRORS,
    example_request={"is_active": "true", "limit": 20},
    example_response={"result": [EXAMPLE], "next_cursor": None, "prev_cursor": None, "limit": 20},
)
handler = lambda_handler(endpoint)
