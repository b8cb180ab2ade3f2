"""Deletes a model sync; what runs is cancelled."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions.model_sync import SYNC_ID, SYNC_NOT_FOUND


class DeleteModelSync(BaseModel):
    sync_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/syncs/{sync_id}",
    rpc="delete_model_sync",
    request=DeleteModelSync,
    response=None,
    status=204,
    error_format=POLYTOMIC,
    errors=(SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
)
handler = endpoint.handler
