"""Deletes a bulk sync and cancels its active execution."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import SYNC_ID


class DeleteBulkSync(BaseModel):
    sync_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/bulk/syncs/{sync_id}",
    request=DeleteBulkSync,
    response=None,
    status=204,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
)
handler = lambda_handler(endpoint)
