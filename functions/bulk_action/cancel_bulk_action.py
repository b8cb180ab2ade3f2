"""Cancels a scheduled or running bulk action job: it acts on nothing more, and what it has done stays."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import PROBLEM
from functions._shared.errors import ErrorSpec
from functions.bulk_action import JOB_ID, JOB_NOT_FOUND

NOT_CANCELLABLE = ErrorSpec(
    400, "not_cancellable", "The job has ended; `current_status` says how.", {"current_status": "completed"}
)


def _if_it_is_one(reason: object) -> object:
    return reason.replace("\0", "")[:500] if isinstance(reason, str) else None


class CancelBulkAction(BaseModel):
    """The body is free."""

    job_id: UUID
    reason: Annotated[object, BeforeValidator(_if_it_is_one), Field(description="Kept if it is a text.")] = None


class BulkActionCancelled(BaseModel):
    success: Literal[True]
    job_id: UUID
    status: Literal["cancelled"]


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/actions/bulk/jobs/{job_id}/cancel",
    rpc="cancel_bulk_action",
    request=CancelBulkAction,
    response=BulkActionCancelled,
    error_format=PROBLEM,
    errors=(NOT_CANCELLABLE, JOB_NOT_FOUND),
    example_request={"job_id": JOB_ID, "reason": "not these"},
    example_response={"success": True, "job_id": JOB_ID, "status": "cancelled"},
)
handler = endpoint.handler
