"""Revokes an API key immediately and permanently."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import API_KEY_NOT_FOUND
from functions._shared.lambda_adapter import lambda_handler
from functions.api_key.list_api_keys import EXAMPLE, ApiKey


class RevokeApiKey(BaseModel):
    api_key_id: UUID


endpoint = Endpoint(
    __name__,
    "POST",
    request=RevokeApiKey,
    response=ApiKey,
    idempotent=False,
    errors=(API_KEY_NOT_FOUND,),
    example_request={"api_key_id": EXAMPLE["id"]},
    example_response={**EXAMPLE, "revoked_at": EXAMPLE["created_at"], "revoked_by": EXAMPLE["created_by"]},
)
handler = lambda_handler(endpoint)
