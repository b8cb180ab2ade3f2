"""Stops a run that waits or runs, at once; the record stays, and the answer is the whole run."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import TRUTO
from functions._shared.errors import ErrorSpec
from functions.sync_job_run import RUN_ID, RUN_NOT_FOUND
from functions.sync_job_run.get_sync_job_run import EXAMPLE, SyncJobRun

# 400 and not 409: the published clients send a 409 again, three times at once, and this one will not change.
NOT_CANCELLABLE = ErrorSpec(
    400, "not_cancellable", "The run has ended; `current_status` says how.", {"current_status": "completed"}
)


class StopSyncJobRun(BaseModel):
    run_id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/sync-job-run/{run_id}",
    rpc="stop_sync_job_run",
    request=StopSyncJobRun,
    response=SyncJobRun,
    notifies_worker=True,
    error_format=TRUTO,
    idempotent=True,
    errors=(NOT_CANCELLABLE, RUN_NOT_FOUND),
    example_request={"run_id": RUN_ID},
    example_response={**EXAMPLE, "status": "stopped", "finished_at": EXAMPLE["updated_at"]},
)
handler = endpoint.handler
