"""Lists your agency's runs of sync jobs, newest first."""

from __future__ import annotations

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import TRUTO
from functions._shared.filters import FILTER_ERRORS, FilteredList, Page
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job_run.get_sync_job_run import EXAMPLE, SyncJobRun


class ListSyncJobRuns(FilteredList):
    filterable = (
        "id",
        "environment_id",
        "sync_job_id",
        "integrated_account_id",
        "status",
        "daemon_group_key",
        "webhook_id",
        "error_handling",
        "ignore_previous_run",
        "version",
        "created_at",
        "updated_at",
        "started_at",
        "finished_at",
    )


class SyncJobRuns(Page):
    result: list[SyncJobRun]


endpoint = Endpoint(
    __name__,
    "GET",
    path="/sync-job-run",
    request=ListSyncJobRuns,
    response=SyncJobRuns,
    error_format=TRUTO,
    errors=FILTER_ERRORS,
    example_request={"status[in]": "created,running", "created_at[gte]": "2026-11-22T00:00:00Z", "limit": 20},
    example_response={"result": [EXAMPLE], "next_cursor": None, "prev_cursor": None, "limit": 20},
)
handler = lambda_handler(endpoint)
