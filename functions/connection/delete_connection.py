"""Deletes a connection and its secret, and cancels its active executions."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import CONNECTION_IN_USE, CONNECTION_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import SOURCE_ID


class DeleteConnection(BaseModel):
    connection_id: UUID
    force: bool | None = None


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/connections/{connection_id}",
    request=DeleteConnection,
    response=None,
    notifies_worker=True,
    status=204,
    error_format=POLYTOMIC,
    errors=(CONNECTION_NOT_FOUND, CONNECTION_IN_USE),
    example_request={"connection_id": SOURCE_ID},
)
handler = lambda_handler(endpoint)
