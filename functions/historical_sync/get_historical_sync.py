"""Returns a historical sync: its status, progress, position and error, who cancelled it and why."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import JOB_NOT_FOUND, JOB_OF_ANOTHER_AGENCY
from functions._shared.lambda_adapter import lambda_handler
from functions.historical_sync import CONNECTION_ID, JOB_ID

EXAMPLE = {
    "job_id": JOB_ID,
    "status": "in_progress",
    "connection_id": CONNECTION_ID,
    "date_from": "2013-01-01",
    "date_to": "2013-12-31",
    "resources": ["flights"],
    "progress": {"records": 167979, "windows_done": 183, "windows_total": 365, "percent": 50, "eta_seconds": 9},
    "position": {"resource": "flights", "date": "2013-07-03"},
    "error": None,
    "cancelled_by": None,
    "cancel_reason": None,
    "retry_of": None,
    "created_by": "user:a3848396-23ea-4a28-a74c-541a63cd6a35",
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "started_at": "2026-11-22T13:47:26.293156+00:00",
    "cancel_requested_at": None,
    "finished_at": None,
}

Status = Literal["pending", "in_progress", "completed", "failed", "cancelled"]


class GetHistoricalSync(BaseModel):
    job_id: UUID


class Progress(BaseModel):
    """Committed records, and windows of the date range. Unknown values are null."""

    records: int
    windows_done: int | None
    windows_total: int | None
    percent: int
    eta_seconds: int | None


class Position(BaseModel):
    """The last committed checkpoint: the resource, and the first day of its window."""

    resource: str | None
    date: str | None


class Failure(BaseModel):
    code: str
    message: str


class HistoricalSync(BaseModel):
    job_id: UUID
    status: Status
    connection_id: UUID
    date_from: date
    date_to: date
    resources: list[str]
    progress: Progress
    position: Position | None
    error: Failure | None
    cancelled_by: str | None
    cancel_reason: str | None
    retry_of: UUID | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    finished_at: datetime | None


endpoint = Endpoint(
    __name__,
    "GET",
    request=GetHistoricalSync,
    response=HistoricalSync,
    errors=(JOB_OF_ANOTHER_AGENCY, JOB_NOT_FOUND),
    example_request={"job_id": JOB_ID},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
