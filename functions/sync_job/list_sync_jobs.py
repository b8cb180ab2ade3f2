"""Lists your agency's sync jobs, newest first."""

from __future__ import annotations

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import TRUTO
from functions._shared.filters import FILTER_ERRORS, FilteredList, Page
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job.get_sync_job import EXAMPLE, SyncJob


class ListSyncJobs(FilteredList):
    filterable = (
        "id",
        "environment_id",
        "label",
        "integration_name",
        "default_runtime_version",
        "created_at",
        "updated_at",
    )


class SyncJobs(Page):
    result: list[SyncJob]


endpoint = Endpoint(
    __name__,
    "GET",
    path="/sync-job",
    request=ListSyncJobs,
    response=SyncJobs,
    error_format=TRUTO,
    errors=FILTER_ERRORS,
    example_request={"label[ilike]": "contact%", "limit": 20},
    example_response={"result": [EXAMPLE], "next_cursor": None, "prev_cursor": None, "limit": 20},
)
handler = lambda_handler(endpoint)
