"""Creates an API key for your agency. Only this response shows the key, and it is never repeated."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.fields import PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.api_key.list_api_keys import EXAMPLE, ApiKey


class CreateApiKey(BaseModel):
    name: Annotated[PgText, Field(min_length=1, max_length=200)]


class ApiKeyCreated(BaseModel):
    """Send `key` as `Authorization: Bearer <key>`, or as the user name of Basic authentication."""

    key: str
    api_key: ApiKey


endpoint = Endpoint(
    __name__,
    "POST",
    request=CreateApiKey,
    response=ApiKeyCreated,
    status=201,
    idempotent=False,
    example_request={"name": "nightly jobs"},
    example_response={"key": "sync_…", "api_key": EXAMPLE},
)
handler = lambda_handler(endpoint)
