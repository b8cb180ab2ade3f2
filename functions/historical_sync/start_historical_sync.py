"""Starts a historical sync of a connection for the days from `date_from` to `date_to`, both included."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import (
    ALREADY_ACTIVE,
    CONNECTION_NOT_FOUND,
    CONNECTION_OF_ANOTHER_AGENCY,
    INVALID_RESOURCES,
    NOT_A_SOURCE,
    UNKNOWN_RESOURCE,
)
from functions._shared.fields import Date, PgText
from functions._shared.lambda_adapter import lambda_handler
from functions.historical_sync import CONNECTION_ID, JOB_ID


class StartHistoricalSync(BaseModel):
    connection_id: UUID
    date_from: Date
    date_to: Date
    resources: Annotated[list[PgText], Field(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.date_from > self.date_to:
            raise ValueError("date_from must not be after date_to.")
        return self


class HistoricalSyncStarted(BaseModel):
    job_id: UUID
    status: Literal["pending"]


endpoint = Endpoint(
    __name__,
    "POST",
    request=StartHistoricalSync,
    response=HistoricalSyncStarted,
    notifies_worker=True,
    status=201,
    errors=(
        NOT_A_SOURCE,
        INVALID_RESOURCES,
        UNKNOWN_RESOURCE,
        CONNECTION_OF_ANOTHER_AGENCY,
        CONNECTION_NOT_FOUND,
        ALREADY_ACTIVE,
    ),
    example_request={"connection_id": CONNECTION_ID, "date_from": "2013-01-01", "date_to": "2013-12-31"},
    example_response={"job_id": JOB_ID, "status": "pending"},
)
handler = lambda_handler(endpoint)
