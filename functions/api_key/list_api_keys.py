"""Lists your agency's API keys, revoked ones included, newest first. The keys themselves are not shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.lambda_adapter import lambda_handler

EXAMPLE: dict[str, Any] = {
    "id": "f2b1c0a4-5d1c-4b5e-9a57-0d8f4f5f6a21",
    "name": "nightly jobs",
    "hint": "9c3e",
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "created_by": "user:a3848396-23ea-4a28-a74c-541a63cd6a35",
    "last_used_at": None,
    "revoked_at": None,
    "revoked_by": None,
}


class ListApiKeys(BaseModel):
    pass


class ApiKey(BaseModel):
    """`hint` is the end of the key. `last_used_at` is accurate to one minute."""

    id: UUID
    name: str
    hint: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None


class ApiKeys(BaseModel):
    api_keys: list[ApiKey]


endpoint = Endpoint(
    __name__,
    "GET",
    request=ListApiKeys,
    response=ApiKeys,
    example_response={"api_keys": [EXAMPLE]},
)
handler = lambda_handler(endpoint)
