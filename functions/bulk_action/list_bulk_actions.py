"""Lists your agency's bulk action jobs, newest first."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import PROBLEM
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_action import Status
from functions.bulk_action.get_bulk_action import EXAMPLE, BulkAction


class ListBulkActions(BaseModel):
    """`cursor` is the `next_cursor` of the previous page."""

    status: Status | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: UUID | None = None


class BulkActions(BaseModel):
    """`next_cursor` is null on the last page."""

    jobs: list[BulkAction]
    next_cursor: UUID | None


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/actions/bulk/jobs",
    request=ListBulkActions,
    response=BulkActions,
    error_format=PROBLEM,
    example_request={"status": "running", "limit": 20},
    example_response={"jobs": [EXAMPLE], "next_cursor": None},
)
handler = lambda_handler(endpoint)
