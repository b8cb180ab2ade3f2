"""Returns an execution of a bulk sync with the status and counts of each schema."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_SYNC_NOT_FOUND, EXECUTION_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import EXECUTION_ID, SYNC_ID

Status = Literal["created", "scheduled", "running", "canceling", "canceled", "completed", "failed"]

EXAMPLE: dict[str, Any] = {
    "id": EXECUTION_ID,
    "status": "running",
    "status_message": None,
    "type": "manual",
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "started_at": "2026-11-22T13:47:26.293156+00:00",
    "completed_at": None,
    "updated_at": "2026-11-22T13:47:26.293156+00:00",
    "is_test": False,
    "is_resync": False,
    "is_partial": False,
    "fetch_mode": "full",
    "output_disposition": "retain",
    "version": "168",
    "record_count": 167979,
    "error_count": 0,
    "warning_count": 0,
    "cancel_requested_at": None,
    "cancel_deadline": None,
    "cancelled_by": None,
    "schemas": [
        {
            "schema": "flights",
            "output_name": "flights",
            "status": "running",
            "status_message": None,
            "record_count": 167979,
            "error_count": 0,
            "warning_count": 0,
            "created_at": "2026-11-22T13:47:26.287044+00:00",
            "started_at": "2026-11-22T13:47:26.331522+00:00",
            "completed_at": None,
            "updated_at": "2026-11-22T13:47:26.331522+00:00",
        }
    ],
}


class GetBulkSyncExecution(BaseModel):
    sync_id: UUID
    execution_id: UUID


class SchemaExecution(BaseModel):
    """`record_count`: records read and stored. `error_count`: records read and not stored."""

    schema_name: str = Field(alias="schema")
    output_name: str
    status: Literal["created", "scheduled", "running", "canceled", "completed", "failed"]
    status_message: str | None
    record_count: int
    error_count: int
    warning_count: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


class BulkSyncExecution(BaseModel):
    """`cancel_deadline`: the time by which a `canceling` execution ends."""

    id: UUID
    status: Status
    status_message: str | None
    type: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    is_test: bool
    is_resync: bool
    is_partial: bool
    fetch_mode: str
    output_disposition: str
    version: str
    record_count: int
    error_count: int
    warning_count: int
    cancel_requested_at: datetime | None
    cancel_deadline: datetime | None
    cancelled_by: str | None
    schemas: list[SchemaExecution]


class OneBulkSyncExecution(BaseModel):
    data: BulkSyncExecution


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/bulk/syncs/{sync_id}/executions/{execution_id}",
    request=GetBulkSyncExecution,
    response=OneBulkSyncExecution,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND, EXECUTION_NOT_FOUND),
    example_request={"sync_id": SYNC_ID, "execution_id": EXECUTION_ID},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
