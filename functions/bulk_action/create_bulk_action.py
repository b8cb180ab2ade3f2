"""Creates a bulk action job. It acts on the executions that match when it begins: now, or at `scheduled_at`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import PROBLEM
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_action import CRITERIA_ERRORS, Criteria, MaxLimit, Time
from functions.bulk_action.get_bulk_action import EXAMPLE, BulkAction


class CreateBulkAction(StrictRequest):
    """`retry` continues failed and cancelled executions at their checkpoint. `start` repeats ended ones."""

    action_type: Literal["cancel", "retry", "start"]
    criteria: Criteria
    action_reason: Annotated[PgText, Field(max_length=500)] | None = None
    max_limit: MaxLimit | None = None
    scheduled_at: Time | None = None
    action_duration: Annotated[int | None, AcceptsOnly()] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/actions/bulk/jobs",
    request=CreateBulkAction,
    response=BulkAction,
    notifies_worker=True,
    error_format=PROBLEM,
    errors=CRITERIA_ERRORS,
    example_request={
        "action_type": "cancel",
        "criteria": {"family": "historical_sync", "status": "pending"},
        "action_reason": "wrong configuration",
    },
    example_response={**EXAMPLE, "status": "scheduled", "executed_at": None},
)
handler = lambda_handler(endpoint)
