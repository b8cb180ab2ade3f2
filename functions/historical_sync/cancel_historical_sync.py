"""Ends a pending or running historical sync at once; what its worker sends afterwards is not accepted."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID  # noqa: TC003 (pydantic reads it)

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint, Text


class CancelHistoricalSync(BaseModel):
    job_id: UUID
    reason: Annotated[Text, Field(max_length=500)] | None = None


class HistoricalSyncCancelled(BaseModel):
    job_id: UUID
    status: Literal["cancelled"]


endpoint = Endpoint(
    __name__, "POST", rpc="cancel_sync_job", request=CancelHistoricalSync, response=HistoricalSyncCancelled
)
handler = endpoint.handler
