"""Changes the given fields of a sync job. Started runs keep the job as it was."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import SYNC_JOB_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.fields import PgJson, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job import JOB_ID, RESOURCE_ERRORS, Resources, Unsupported, Version
from functions.sync_job.get_sync_job import EXAMPLE, SyncJob


class UpdateSyncJob(StrictRequest):
    job_id: UUID
    resources: Resources | None = None
    label: Annotated[PgText, Field(min_length=1, max_length=200)] | None = None
    integration_name: Annotated[PgText, Field(max_length=200)] | None = None
    args_schema: PgJson | None = None
    default_runtime_version: Version | None = None
    args_validation: Unsupported = None
    mutex_key: Unsupported = None
    state_key: Unsupported = None


endpoint = Endpoint(
    __name__,
    "PATCH",
    path="/sync-job/{job_id}",
    request=UpdateSyncJob,
    response=SyncJob,
    error_format=TRUTO,
    idempotent=False,
    errors=(SYNC_JOB_NOT_FOUND, *RESOURCE_ERRORS),
    example_request={"job_id": JOB_ID, "label": "Contacts"},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
