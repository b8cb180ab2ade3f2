"""Connections are configured external systems. Also the models that the APIs built on connections share.

Source of paths, fields and status values: the published API, versions 2023-04-25 to 2025-09-18.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.fields import AcceptsOnly, StrictRequest

PATH = "/api/connections"  # of all its endpoints

# In examples.
ORGANIZATION_ID = "7d9c7b7e-6e0c-4cfb-8c58-2d1f2c0f6a11"
SOURCE_ID = "e5ec3e3f-9877-4d63-938a-e2f34036a1d6"
RECORDS_ID = "3b9a0d55-0f4f-4f4c-9a51-1f9c9f5f7a02"
JOB_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"


class Actor(BaseModel):
    """`type` is user, api_key or the role of a trusted server."""

    id: str
    type: str
    name: str


class Pagination(BaseModel):
    """`next_page_token` is empty on the last page."""

    next_page_token: str


class Schedule(StrictRequest):
    """Executions are started manually. `frequency` may be missing, as in the published clients' own examples."""

    frequency: Annotated[str | None, AcceptsOnly("manual")] = None
    id: str | None = None
    day_of_month: Annotated[str | None, AcceptsOnly("")] = None
    day_of_week: Annotated[str | None, AcceptsOnly("")] = None
    hour: Annotated[str | None, AcceptsOnly("")] = None
    minute: Annotated[str | None, AcceptsOnly("")] = None
    month: Annotated[str | None, AcceptsOnly("")] = None
    multi: Annotated[object, AcceptsOnly()] = None
    connection_id: Annotated[str | None, AcceptsOnly("")] = None
    job_id: Annotated[int | None, AcceptsOnly()] = None
    run_after: Annotated[object, AcceptsOnly({})] = None
    run_after_success_only: Annotated[bool | None, AcceptsOnly(False)] = None


class Cancellation(BaseModel):
    """`execution_id` and `status` are null if no execution was active."""

    message: Literal["Cancellation requested", "Nothing is running"]
    execution_id: UUID | None
    status: Literal["canceling", "canceled"] | None
