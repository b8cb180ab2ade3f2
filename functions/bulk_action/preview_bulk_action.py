"""Returns the executions that a bulk action would act on now. Changes nothing."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import PROBLEM
from functions._shared.fields import StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_action import CRITERIA_ERRORS, JOB_ID, Criteria, MaxLimit


class PreviewBulkAction(StrictRequest):
    criteria: Criteria
    max_limit: MaxLimit | None = None


class Match(BaseModel):
    """`status` is a status of the `family`."""

    id: UUID
    family: str
    status: str
    created_at: datetime


class BulkActionPreview(BaseModel):
    """Counts up to `max_limit` and 10,000; beyond, `is_exact` is false. `sample`: the first ten."""

    total_count: int
    is_exact: bool
    sample: list[Match]


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/actions/bulk/preview",
    request=PreviewBulkAction,
    response=BulkActionPreview,
    error_format=PROBLEM,
    idempotent=False,
    errors=CRITERIA_ERRORS,
    example_request={"criteria": {"family": "historical_sync", "status": "pending"}},
    example_response={
        "total_count": 1,
        "is_exact": True,
        "sample": [
            {
                "id": JOB_ID,
                "family": "historical_sync",
                "status": "pending",
                "created_at": "2026-11-22T13:47:26.287044+00:00",
            }
        ],
    },
)
handler = lambda_handler(endpoint)
