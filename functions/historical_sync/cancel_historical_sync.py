"""Cancels a pending or running historical sync immediately. Later writes of its worker are rejected."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import JOB_NOT_FOUND, JOB_OF_ANOTHER_AGENCY, NOT_CANCELLABLE
from functions._shared.fields import PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.historical_sync import JOB_ID


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
handler = lambda_handler(endpoint)
