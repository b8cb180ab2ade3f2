"""Connections: the systems that data comes from and goes to; and what all APIs that use them share.

Source of paths, members and words: the published API, versions 2023-04-25 to 2025-09-18.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.fields import AcceptsOnly, StrictRequest

PATH = "/api/connections"  # what those of its endpoints begin with

# In examples.
ORGANIZATION_ID = "7d9c7b7e-6e0c-4cfb-8c58-2d1f2c0f6a11"
SOURCE_ID = "e5ec3e3f-9877-4d63-938a-e2f34036a1d6"
RECORDS_ID = "3b9a0d55-0f4f-4f4c-9a51-1f9c9f5f7a02"
JOB_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"


class Actor(BaseModel):
    """Who did it: `type` is user, api_key or a trusted server's role."""

    id: str
    type: str
    name: str


class Pagination(BaseModel):
    """Empty on the last page."""

    next_page_token: str


class Schedule(StrictRequest):
    """Executions are started by hand, also where no frequency is given: the published clients' own examples do that."""

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
    """`execution_id` and `status` are null when nothing was active."""

    message: Literal["Cancellation requested", "Nothing is running"]
    execution_id: UUID | None
    status: Literal["canceling", "canceled"] | None
