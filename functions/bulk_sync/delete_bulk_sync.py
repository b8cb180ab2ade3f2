"""Deletes a bulk sync; what runs is cancelled."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions.bulk_sync import SYNC_ID, SYNC_NOT_FOUND


class DeleteBulkSync(BaseModel):
    sync_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/bulk/syncs/{sync_id}",
    rpc="delete_bulk_sync",
    request=DeleteBulkSync,
    response=None,
    status=204,
    error_format=POLYTOMIC,
    errors=(SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
)
handler = endpoint.handler
