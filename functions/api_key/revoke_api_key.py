"""Revokes an API key at once and for good."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.errors import ErrorSpec
from functions.api_key.list_api_keys import EXAMPLE, ApiKey

API_KEY_NOT_FOUND = ErrorSpec(404, "api_key_not_found", "There is no API key with this id.")


class RevokeApiKey(BaseModel):
    api_key_id: UUID


endpoint = Endpoint(
    __name__,
    "POST",
    rpc="revoke_api_key",
    request=RevokeApiKey,
    response=ApiKey,
    idempotent=False,
    errors=(API_KEY_NOT_FOUND,),
    example_request={"api_key_id": EXAMPLE["id"]},
    example_response={**EXAMPLE, "revoked_at": EXAMPLE["created_at"], "revoked_by": EXAMPLE["created_by"]},
)
handler = endpoint.handler
