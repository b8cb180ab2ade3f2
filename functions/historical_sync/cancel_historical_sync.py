"""Ends a pending or running historical sync at once; what its worker sends afterwards is not accepted."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.errors import ErrorSpec
from functions._shared.fields import PgText
from functions.historical_sync import JOB_ID, JOB_NOT_FOUND, JOB_OF_ANOTHER_AGENCY

NOT_CANCELLABLE = ErrorSpec(
    400, "not_cancellable", "The job has ended; `current_status` says how.", {"current_status": "completed"}
)


class CancelHistoricalSync(BaseModel):
    job_id: UUID
    reason: Annotated[PgText, Field(max_length=500)] | None = None


class HistoricalSyncCancelled(BaseModel):
    job_id: UUID
    status: Literal["cancelled"]


endpoint = Endpoint(
    __name__,
    "POST",
    rpc="cancel_sync_job",
    request=CancelHistoricalSync,
    response=HistoricalSyncCancelled,
    errors=(NOT_CANCELLABLE, JOB_OF_ANOTHER_AGENCY, JOB_NOT_FOUND),
    example_request={"job_id": JOB_ID, "reason": "wrong date range"},
    example_response={"job_id": JOB_ID, "status": "cancelled"},
)
handler = endpoint.handler
