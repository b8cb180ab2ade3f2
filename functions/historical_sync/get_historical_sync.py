"""One historical sync as it stands: status, progress, position, error, who cancelled it and why."""

from __future__ import annotations

from datetime import date, datetime  # noqa: TC003 (pydantic reads them)
from typing import Literal
from uuid import UUID  # noqa: TC003 (pydantic reads it)

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint


class GetHistoricalSync(BaseModel):
    job_id: UUID


class Progress(BaseModel):
    """Committed records, and windows of the date range: null until the worker has begun; the ETA, until one is done."""

    records: int
    windows_done: int | None
    windows_total: int | None
    percent: int
    eta_seconds: int | None


class Position(BaseModel):
    """The last committed checkpoint: the resource, and the first day of the window it stands in."""

    resource: str | None
    date: str | None


class Failure(BaseModel):
    code: str
    message: str


class HistoricalSync(BaseModel):
    job_id: UUID
    status: Literal["pending", "in_progress", "completed", "failed", "cancelled"]
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


endpoint = Endpoint(__name__, "GET", rpc="get_historical_sync", request=GetHistoricalSync, response=HistoricalSync)
handler = endpoint.handler
