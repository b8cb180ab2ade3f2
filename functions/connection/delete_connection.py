"""Deletes a connection and its secret; what runs on it is cancelled."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.errors import ErrorSpec
from functions.connection import CONNECTION_NOT_FOUND, SOURCE_ID

IN_USE = ErrorSpec(
    422,
    "connection_in_use",
    "Syncs or models use it, those in `used_by`; with `force=true` they are deleted too.",
    {"used_by": [{"type": "bulk_sync", "id": "248df4b7-aa70-47b8-a036-33ac447e668d", "name": "Flights"}]},
)


class DeleteConnection(BaseModel):
    connection_id: UUID
    force: bool | None = None


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/connections/{connection_id}",
    rpc="delete_connection",
    request=DeleteConnection,
    response=None,
    notifies_worker=True,
    status=204,
    error_format=POLYTOMIC,
    errors=(CONNECTION_NOT_FOUND, IN_USE),
    example_request={"connection_id": SOURCE_ID},
)
handler = endpoint.handler
