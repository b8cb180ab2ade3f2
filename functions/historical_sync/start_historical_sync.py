"""Queues a historical sync of a connection: all days from `date_from` to `date_to`, both included."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID  # noqa: TC003 (pydantic reads it)

from pydantic import BaseModel, Field, model_validator

from functions._shared.endpoint import Date, Endpoint, Text


class StartHistoricalSync(BaseModel):
    connection_id: UUID
    date_from: Date
    date_to: Date
    resources: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None

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
    rpc="start_historical_sync",
    request=StartHistoricalSync,
    response=HistoricalSyncStarted,
    status=201,
)
handler = endpoint.handler
