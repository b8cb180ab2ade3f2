"""Historical syncs: a date range of a connection's data, window by window."""

from __future__ import annotations

from functions._shared.errors import ErrorSpec

# In examples.
JOB_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"
CONNECTION_ID = "e5ec3e3f-9877-4d63-938a-e2f34036a1d6"

JOB_NOT_FOUND = ErrorSpec(404, "job_not_found", "There is no job with this id.")
JOB_OF_ANOTHER_AGENCY = ErrorSpec(403, "job_of_another_agency", "This job belongs to another agency.")
ALREADY_ACTIVE = ErrorSpec(
    409, "already_active", "The connection has an active job; `job_id` is its id.", {"job_id": JOB_ID}
)
