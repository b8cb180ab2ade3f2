"""Returns a run with its sync job and its counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import SYNC_JOB_RUN_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import SOURCE_ID
from functions.sync_job import ENVIRONMENT_ID, JOB_ID
from functions.sync_job.get_sync_job import EXAMPLE as JOB
from functions.sync_job.get_sync_job import SyncJob
from functions.sync_job_run import RUN_ID

Status = Literal["created", "running", "completed", "failed", "stopped"]

EXAMPLE: dict[str, Any] = {
    "id": RUN_ID,
    "args": {"since": "2013-01-01"},
    "resources": JOB["resources"],
    "sync_job_id": JOB_ID,
    "integrated_account_id": SOURCE_ID,
    "environment_id": ENVIRONMENT_ID,
    "status": "running",
    "daemon_id": "default",
    "daemon_group_key": "default",
    "webhook_id": None,
    "error_handling": "fail_fast",
    "ignore_previous_run": False,
    "version": 3,
    "resource_stats": {"crm/contacts": {"list": {"fetched": 100, "persisted": 100}}},
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_at": "2026-11-22T13:47:26.293156+00:00",
    "started_at": "2026-11-22T13:47:26.293156+00:00",
    "finished_at": None,
    "sync_job": JOB,
}


class GetSyncJobRun(BaseModel):
    run_id: UUID


class MethodStats(BaseModel):
    """`fetched`: records read. `persisted`: records stored or delivered."""

    fetched: int
    persisted: int


class SyncJobRun(BaseModel):
    """`resource_stats`: by resource and method, as of the last batch."""

    id: UUID
    args: dict[str, Any]
    resources: list[dict[str, Any]]
    sync_job_id: UUID
    integrated_account_id: UUID
    environment_id: UUID
    status: Status
    daemon_id: str | None
    daemon_group_key: str | None
    webhook_id: UUID | None
    error_handling: Literal["fail_fast", "ignore", "batch"]
    ignore_previous_run: bool
    version: int
    resource_stats: dict[str, dict[str, MethodStats]]
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    sync_job: SyncJob


endpoint = Endpoint(
    __name__,
    "GET",
    path="/sync-job-run/{run_id}",
    request=GetSyncJobRun,
    response=SyncJobRun,
    error_format=TRUTO,
    errors=(SYNC_JOB_RUN_NOT_FOUND,),
    example_request={"run_id": RUN_ID},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
