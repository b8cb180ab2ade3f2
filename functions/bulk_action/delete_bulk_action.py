"""Deletes a bulk action job that has ended. Its audit events stay."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_ACTION_NOT_FOUND, NOT_DELETABLE
from functions._shared.error_format import PROBLEM
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_action import JOB_ID


class DeleteBulkAction(BaseModel):
    job_id: UUID


class BulkActionDeleted(BaseModel):
    success: Literal[True]
    job_id: UUID
    status: Literal["completed", "failed", "cancelled"]


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/api/actions/bulk/jobs/{job_id}",
    request=DeleteBulkAction,
    response=BulkActionDeleted,
    error_format=PROBLEM,
    errors=(NOT_DELETABLE, BULK_ACTION_NOT_FOUND),
    example_request={"job_id": JOB_ID},
    example_response={"success": True, "job_id": JOB_ID, "status": "completed"},
)
handler = lambda_handler(endpoint)
