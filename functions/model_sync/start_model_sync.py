"""Starts an execution of a model sync."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import ALREADY_ACTIVE, MODEL_SYNC_NOT_FOUND, NOT_THE_IDENTITY
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.model_sync import SYNC_ID
from functions.model_sync.get_model_sync_execution import EXAMPLE, OneModelSyncExecution


class StartModelSync(StrictRequest):
    """`resync` is accepted and changes nothing, because every execution reads all records."""

    sync_id: UUID
    resync: Annotated[bool | None, AcceptsOnly(True, False)] = None
    test: Annotated[bool | None, AcceptsOnly(False)] = None
    identities: Annotated[list[str] | None, AcceptsOnly([])] = None
    source_identities: Annotated[list[Any] | None, AcceptsOnly([])] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/syncs/{sync_id}/executions",
    request=StartModelSync,
    response=OneModelSyncExecution,
    notifies_worker=True,
    error_format=POLYTOMIC,
    errors=(MODEL_SYNC_NOT_FOUND, NOT_THE_IDENTITY, ALREADY_ACTIVE),
    example_request={"sync_id": SYNC_ID},
    example_response={"data": {**EXAMPLE, "status": "created", "started_at": None, "completed_at": None}},
)
handler = lambda_handler(endpoint)
