"""Cancels a scheduled or running bulk action job: it acts on nothing more, and what it has done stays."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.dialect import PROBLEM
from functions._shared.endpoint import Endpoint
from functions._shared.errors import Refusal
from functions._shared.members import Free
from functions.bulk_action import JOB_ID, JOB_NOT_FOUND

NOT_CANCELLABLE = Refusal(
    400, "not_cancellable", "The job has ended; `current_status` says how.", {"current_status": "completed"}
)


def _if_it_is_one(reason: object) -> object:
    return reason.replace("\0", "")[:500] if isinstance(reason, str) else None


class CancelBulkAction(BaseModel):
    """The body is free: a `reason` in it is kept if it is a text."""

    job_id: UUID
    reason: Annotated[str | None, Free(_if_it_is_one)] = None


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
    dialect=PROBLEM,
    refusals=(NOT_CANCELLABLE, JOB_NOT_FOUND),
    example_request={"job_id": JOB_ID, "reason": "not these"},
    example_response={"success": True, "job_id": JOB_ID, "status": "cancelled"},
)
handler = endpoint.handler
