"""Cancels a scheduled or running bulk action job. It acts on no further execution. What it has done stays."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_ACTION_NOT_FOUND, NOT_CANCELLABLE
from functions._shared.error_format import PROBLEM
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_action import JOB_ID


def _string_or_null(reason: object) -> object:
    return reason.replace("\0", "")[:500] if isinstance(reason, str) else None


class CancelBulkAction(BaseModel):
    """Any JSON object is accepted."""

    job_id: UUID
    reason: Annotated[object, BeforeValidator(_string_or_null), Field(description="Stored if it is a string.")] = None


class BulkActionCancelled(BaseModel):
    success: Literal[True]
    job_id: UUID
    status: Literal["cancelled"]


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/actions/bulk/jobs/{job_id}/cancel",
    request=CancelBulkAction,
    response=BulkActionCancelled,
    error_format=PROBLEM,
    errors=(NOT_CANCELLABLE, BULK_ACTION_NOT_FOUND),
    example_request={"job_id": JOB_ID, "reason": "not these"},
    example_response={"success": True, "job_id": JOB_ID, "status": "cancelled"},
)
handler = lambda_handler(endpoint)
