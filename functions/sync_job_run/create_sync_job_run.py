"""Starts a run of a sync job. Its records are stored (`daemon_group_key`) or delivered (`webhook_id`)."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import (
    CONNECTION_NOT_FOUND,
    INVALID_ARGUMENT,
    INVALID_ERROR_HANDLING,
    NOT_A_SOURCE,
    ONE_DESTINATION,
    OTHER_VERSION,
    SYNC_JOB_NOT_FOUND,
    UNKNOWN_RESOURCE,
    WEBHOOK_NOT_FOUND,
)
from functions._shared.error_format import TRUTO
from functions._shared.fields import AcceptsOnly, PgJson, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import SOURCE_ID
from functions.sync_job import JOB_ID, RESOURCE_ERRORS, Resources, Unsupported, Version
from functions.sync_job_run.get_sync_job_run import EXAMPLE, SyncJobRun
from functions.webhook import EventTypes


class CreateSyncJobRun(StrictRequest):
    """`resources` replace those of the job. `status` is accepted and ignored: a run begins as created.

    `error_handling` is fail_fast by default. With `ignore_previous_run`, `{{previous_run_date}}` has no value.
    """

    sync_job_id: UUID
    integrated_account_id: UUID
    args: PgJson | None = None
    webhook_id: UUID | None = None
    daemon_group_key: Annotated[PgText, Field(min_length=1, max_length=200)] | None = None
    error_handling: Literal["fail_fast", "ignore", "batch"] | None = None
    ignore_previous_run: bool | None = None
    version: Version | None = None
    resources: Resources | None = None
    events_to_send: EventTypes | None = None
    status: PgText | None = Field(None, exclude=True)
    datastore_id: Unsupported = None
    super_query: Unsupported = None
    mutex_key: Unsupported = None
    state_key: Unsupported = None
    force: Annotated[bool | None, AcceptsOnly(False)] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/sync-job-run",
    request=CreateSyncJobRun,
    response=SyncJobRun,
    notifies_worker=True,
    error_format=TRUTO,
    errors=(
        ONE_DESTINATION,
        INVALID_ARGUMENT,
        OTHER_VERSION,
        INVALID_ERROR_HANDLING,
        UNKNOWN_RESOURCE,
        NOT_A_SOURCE,
        *RESOURCE_ERRORS,
        SYNC_JOB_NOT_FOUND,
        CONNECTION_NOT_FOUND,
        WEBHOOK_NOT_FOUND,
    ),
    example_request={
        "sync_job_id": JOB_ID,
        "integrated_account_id": SOURCE_ID,
        "daemon_group_key": "default",
        "args": {"since": "2013-01-01"},
    },
    example_response={**EXAMPLE, "status": "created", "daemon_id": None, "started_at": None, "resource_stats": {}},
)
handler = lambda_handler(endpoint)
