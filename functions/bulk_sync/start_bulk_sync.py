"""Starts an execution of a bulk sync, for all or some of its schemas."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import ALREADY_ACTIVE, BULK_SYNC_NOT_FOUND, UNKNOWN_SCHEMA
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import SYNC_ID
from functions.bulk_sync.get_bulk_sync_execution import EXAMPLE, OneBulkSyncExecution


class StartBulkSync(StrictRequest):
    """`schemas` are ids, by default those of the sync."""

    sync_id: UUID
    schemas: Annotated[list[PgText], Field(min_length=1, max_length=1000)] | None = None
    fetch_mode: Annotated[str | None, AcceptsOnly("full")] = None
    resync_mode: Annotated[str | None, AcceptsOnly()] = None
    resync: Annotated[bool | None, AcceptsOnly(False)] = None
    test: Annotated[bool | None, AcceptsOnly(False)] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/bulk/syncs/{sync_id}/executions",
    request=StartBulkSync,
    response=OneBulkSyncExecution,
    notifies_worker=True,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND, UNKNOWN_SCHEMA, ALREADY_ACTIVE),
    example_request={"sync_id": SYNC_ID, "schemas": ["flights"]},
    example_response={"data": {**EXAMPLE, "status": "created"}},
)
handler = lambda_handler(endpoint)
