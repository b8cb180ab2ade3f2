"""Starts an execution of a model sync."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, StrictRequest
from functions.connection import ALREADY_ACTIVE
from functions.model_sync import NOT_THE_IDENTITY, SYNC_ID, SYNC_NOT_FOUND
from functions.model_sync.get_model_sync_execution import EXAMPLE, OneModelSyncExecution


class StartModelSync(StrictRequest):
    """`resync` changes nothing: every execution reads all records."""

    sync_id: UUID
    resync: Annotated[bool | None, AcceptsOnly(True, False)] = None
    test: Annotated[bool | None, AcceptsOnly(False)] = None
    identities: Annotated[list[str] | None, AcceptsOnly([])] = None
    source_identities: Annotated[list[Any] | None, AcceptsOnly([])] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/syncs/{sync_id}/executions",
    rpc="start_model_sync",
    request=StartModelSync,
    response=OneModelSyncExecution,
    notifies_worker=True,
    error_format=POLYTOMIC,
    errors=(SYNC_NOT_FOUND, NOT_THE_IDENTITY, ALREADY_ACTIVE),
    example_request={"sync_id": SYNC_ID},
    example_response={"data": {**EXAMPLE, "status": "created", "started_at": None, "completed_at": None}},
)
handler = endpoint.handler
