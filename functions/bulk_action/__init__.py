"""Bulk actions cancel, retry or start all executions that match criteria.

Source of paths, fields and status values: the published API of bulk action jobs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field

from functions._shared.error_catalog import FAMILY_REQUIRED, NO_CRITERIA, UNKNOWN_FAMILY, UNKNOWN_STATUS
from functions._shared.fields import PgText, StrictRequest

PATH = "/api/actions/bulk"  # of all its endpoints

# In examples.
JOB_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"

CRITERIA_ERRORS = (NO_CRITERIA, UNKNOWN_FAMILY, FAMILY_REQUIRED, UNKNOWN_STATUS)


MAX_OFFSET = timedelta(hours=16)  # of a time zone in Postgres


def _with_zone(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("must have a time zone, for example 2026-11-22T13:47:26Z")
    offset = time.utcoffset() or timedelta()
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999") from None
    if abs(offset) >= MAX_OFFSET:
        raise ValueError("must have a valid time zone offset")
    return time


Time = Annotated[datetime, AfterValidator(_with_zone)]


class Criteria(StrictRequest):
    """Executions must match all fields, of which at least one is required. `status` is a status of the `family`."""

    family: PgText | None = None
    status: PgText | None = None
    connection_id: UUID | None = None
    created_before: Time | None = None
    created_after: Time | None = None
    ids: Annotated[list[UUID], Field(min_length=1, max_length=10_000)] | None = None


MaxLimit = Annotated[int, Field(ge=1, le=1_000_000)]
Status = Literal["scheduled", "running", "completed", "failed", "cancelled"]
