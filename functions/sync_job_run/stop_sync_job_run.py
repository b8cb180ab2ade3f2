"""Stops a waiting or running run immediately and returns it. The run is not deleted."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import NOT_CANCELLABLE, SYNC_JOB_RUN_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job_run import RUN_ID
from functions.sync_job_run.get_sync_job_run import EXAMPLE, SyncJobRun


class StopSyncJobRun(BaseModel):
    run_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/sync-job-run/{run_id}",
    request=StopSyncJobRun,
    response=SyncJobRun,
    notifies_worker=True,
    error_format=TRUTO,
    idempotent=True,
    errors=(NOT_CANCELLABLE, SYNC_JOB_RUN_NOT_FOUND),
    example_request={"run_id": RUN_ID},
    example_response={**EXAMPLE, "status": "stopped", "finished_at": EXAMPLE["updated_at"]},
)
handler = lambda_handler(endpoint)
