"""Deletes a sync job and stops its active runs. The runs stay."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import SYNC_JOB_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job import JOB_ID


class DeleteSyncJob(BaseModel):
    job_id: UUID


class SyncJobDeleted(BaseModel):
    id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/sync-job/{job_id}",
    request=DeleteSyncJob,
    response=SyncJobDeleted,
    notifies_worker=True,
    error_format=TRUTO,
    errors=(SYNC_JOB_NOT_FOUND,),
    example_request={"job_id": JOB_ID},
    example_response={"id": JOB_ID},
)
handler = lambda_handler(endpoint)
