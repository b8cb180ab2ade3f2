"""Returns a bulk action job with its exact current counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_ACTION_NOT_FOUND
from functions._shared.error_format import PROBLEM
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_action import JOB_ID, Status

EXAMPLE: dict[str, Any] = {
    "job_id": JOB_ID,
    "criteria_json": '{"family": "historical_sync", "status": "pending"}',
    "action_type": "cancel",
    "action_duration": None,
    "action_reason": "wrong configuration",
    "scheduled_at": None,
    "executed_at": "2026-11-22T13:47:26.293156+00:00",
    "completed_at": None,
    "max_limit": 10000,
    "preview_count": 3500,
    "affected_count": 1000,
    "counts": {
        "matched": 3500,
        "done": 1000,
        "failed": 0,
        "skipped": 0,
        "interrupted": 0,
        "not_started": 2500,
    },
    "status": "running",
    "progress_percent": 28,
    "cancelled_by": None,
    "cancel_reason": None,
    "error": None,
    "created_by": "user:a3848396-23ea-4a28-a74c-541a63cd6a35",
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_at": "2026-11-22T13:47:26.293156+00:00",
}


class GetBulkAction(BaseModel):
    job_id: UUID


class BulkActionCounts(BaseModel):
    """`matched` is the sum of the others. `skipped`: executions that had ended, and the job itself."""

    matched: int
    done: int
    failed: int
    skipped: int
    interrupted: int
    not_started: int


class BulkActionFailure(BaseModel):
    code: str
    message: str


class BulkAction(BaseModel):
    """`preview_count`: matches when it was created, counted up to 10,000. `affected_count`: successful actions."""

    job_id: UUID
    criteria_json: str
    action_type: Literal["cancel", "retry", "start"]
    action_duration: int | None
    action_reason: str | None
    scheduled_at: datetime | None
    executed_at: datetime | None
    completed_at: datetime | None
    max_limit: int
    preview_count: int
    affected_count: int
    counts: BulkActionCounts
    status: Status
    progress_percent: int
    cancelled_by: str | None
    cancel_reason: str | None
    error: BulkActionFailure | None
    created_by: str
    created_at: datetime
    updated_at: datetime


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/actions/bulk/jobs/{job_id}",
    request=GetBulkAction,
    response=BulkAction,
    error_format=PROBLEM,
    errors=(BULK_ACTION_NOT_FOUND,),
    example_request={"job_id": JOB_ID},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
