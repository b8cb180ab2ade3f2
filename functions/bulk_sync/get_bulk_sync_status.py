"""Returns the current execution of a bulk sync. An ended one stays current until the next one starts."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import SYNC_ID
from functions.bulk_sync.get_bulk_sync_execution import EXAMPLE, BulkSyncExecution


class GetBulkSyncStatus(BaseModel):
    sync_id: UUID


class BulkSyncStatus(BaseModel):
    """`last_execution` is the newest ended one. `next_execution_time` is null, as schedules are not supported yet."""

    current_execution: BulkSyncExecution | None
    last_execution: BulkSyncExecution | None
    next_execution_time: datetime | None
    ingestion_status: None


class OneBulkSyncStatus(BaseModel):
    data: BulkSyncStatus


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/bulk/syncs/{sync_id}/status",
    request=GetBulkSyncStatus,
    response=OneBulkSyncStatus,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
    example_response={
        "data": {
            "current_execution": EXAMPLE,
            "last_execution": None,
            "next_execution_time": None,
            "ingestion_status": None,
        }
    },
)
handler = lambda_handler(endpoint)
