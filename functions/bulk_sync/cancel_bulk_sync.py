"""Requests the cancellation of a bulk sync's active execution. Poll its status until it is `canceled` or has ended."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import EXECUTION_ID, SYNC_ID
from functions.connection import Cancellation


class CancelBulkSync(BaseModel):
    sync_id: UUID


class BulkSyncCancelled(BaseModel):
    data: Cancellation


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/bulk/syncs/{sync_id}/cancel",
    request=CancelBulkSync,
    response=BulkSyncCancelled,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
    example_response={
        "data": {"message": "Cancellation requested", "execution_id": EXECUTION_ID, "status": "canceling"}
    },
)
handler = lambda_handler(endpoint)
