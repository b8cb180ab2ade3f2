"""Returns an execution of a model sync with its counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import EXECUTION_NOT_FOUND, MODEL_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.model_sync import EXECUTION_ID, SYNC_ID

Status = Literal["created", "scheduled", "running", "canceling", "canceled", "completed", "failed"]

EXAMPLE: dict[str, Any] = {
    "id": EXECUTION_ID,
    "status": "completed",
    "type": "manual",
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "started_at": "2026-11-22T13:47:26.293156+00:00",
    "completed_at": "2026-11-22T13:47:26.331522+00:00",
    "version": "1",
    "counts": {"total": 16, "insert": 4, "update": 12, "delete": 0, "upserts": 0, "error": 0, "warnings": 0},
    "errors": [],
    "cancel_requested_at": None,
    "cancel_deadline": None,
    "cancelled_by": None,
}


class GetModelSyncExecution(BaseModel):
    sync_id: UUID
    execution_id: UUID


class Counts(BaseModel):
    """`total`: records read. `insert` and `update`: rows written. `error`: records not written."""

    total: int
    insert: int
    update: int
    delete: int
    upserts: int
    error: int
    warnings: int


class ModelSyncExecution(BaseModel):
    """`errors`: messages about the first errors. `cancel_deadline`: the time by which a `canceling` execution ends."""

    id: UUID
    status: Status
    type: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    version: str
    counts: Counts
    errors: list[str]
    cancel_requested_at: datetime | None
    cancel_deadline: datetime | None
    cancelled_by: str | None


class OneModelSyncExecution(BaseModel):
    data: ModelSyncExecution


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/syncs/{sync_id}/executions/{execution_id}",
    request=GetModelSyncExecution,
    response=OneModelSyncExecution,
    error_format=POLYTOMIC,
    errors=(MODEL_SYNC_NOT_FOUND, EXECUTION_NOT_FOUND),
    example_request={"sync_id": SYNC_ID, "execution_id": EXECUTION_ID},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
