"""Lists your agency's historical syncs, newest first."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.lambda_adapter import lambda_handler
from functions.historical_sync.get_historical_sync import EXAMPLE, HistoricalSync, Status


class ListHistoricalSyncs(BaseModel):
    """`cursor` is the `next_cursor` of the previous page."""

    status: Status | None = None
    connection_id: UUID | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: UUID | None = None


class HistoricalSyncs(BaseModel):
    """`next_cursor` is null on the last page."""

    jobs: list[HistoricalSync]
    next_cursor: UUID | None


endpoint = Endpoint(
    __name__,
    "GET",
    request=ListHistoricalSyncs,
    response=HistoricalSyncs,
    example_request={"status": "in_progress", "limit": 20},
    example_response={"jobs": [EXAMPLE], "next_cursor": None},
)
handler = lambda_handler(endpoint)
