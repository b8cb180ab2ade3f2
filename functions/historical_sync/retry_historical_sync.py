"""Continues a failed or cancelled historical sync at its last checkpoint, as a new job."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import (
    ALREADY_ACTIVE,
    CONNECTION_NOT_FOUND,
    JOB_NOT_FOUND,
    JOB_OF_ANOTHER_AGENCY,
    NOT_RETRYABLE,
)
from functions._shared.lambda_adapter import lambda_handler
from functions.historical_sync import JOB_ID


class RetryHistoricalSync(BaseModel):
    job_id: UUID


class HistoricalSyncRetried(BaseModel):
    """`job_id` is the id of the new job, `retry_of` the id of the job that it continues."""

    job_id: UUID
    status: Literal["pending"]
    retry_of: UUID


endpoint = Endpoint(
    __name__,
    "POST",
    request=RetryHistoricalSync,
    response=HistoricalSyncRetried,
    notifies_worker=True,
    status=201,
    errors=(NOT_RETRYABLE, JOB_OF_ANOTHER_AGENCY, JOB_NOT_FOUND, CONNECTION_NOT_FOUND, ALREADY_ACTIVE),
    example_request={"job_id": JOB_ID},
    example_response={"job_id": "01a20393-26df-7227-9f87-71fc7a2b2981", "status": "pending", "retry_of": JOB_ID},
)
handler = lambda_handler(endpoint)
