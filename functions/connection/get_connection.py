"""Returns a connection without its secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import CONNECTION_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import ORGANIZATION_ID, SOURCE_ID, Actor

EXAMPLE: dict[str, Any] = {
    "id": SOURCE_ID,
    "name": "Flights",
    "organization_id": ORGANIZATION_ID,
    "type": {"id": "http", "name": "Http"},
    "configuration": {
        "base_url": "https://api.example.com",
        "auth": {"type": "bearer"},
        "resources": {
            "flights": {
                "path": "/flights",
                "primary_key": ["id"],
                "records": "data",
                "pagination": {"type": "page_number", "param": "page", "size_param": "per_page", "size": 1000},
            }
        },
    },
    "policies": [],
    "saved": True,
    "status": None,
    "status_error": None,
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "created_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
    "updated_at": "2026-11-22T13:47:26.287044+00:00",
}


class GetConnection(BaseModel):
    connection_id: UUID


class ConnectionType(BaseModel):
    id: Literal["http", "records"]
    name: str


class Connection(BaseModel):
    """`configuration` is as it was sent, without `secret`."""

    id: UUID
    name: str
    organization_id: UUID
    type: ConnectionType
    configuration: dict[str, Any]
    policies: list[str]
    saved: bool
    status: str | None
    status_error: str | None
    created_at: datetime
    created_by: Actor | None
    updated_at: datetime


class OneConnection(BaseModel):
    data: Connection


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/connections/{connection_id}",
    request=GetConnection,
    response=OneConnection,
    error_format=POLYTOMIC,
    errors=(CONNECTION_NOT_FOUND,),
    example_request={"connection_id": SOURCE_ID},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
