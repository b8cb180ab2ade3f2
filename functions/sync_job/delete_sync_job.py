"""Stops the runs of a sync job and deletes it; the runs stay."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_format import TRUTO
from functions.sync_job import JOB_ID, JOB_NOT_FOUND


class DeleteSyncJob(BaseModel):
    job_id: UUID


class SyncJobDeleted(BaseModel):
    id: UUID


endpoint = Endpoint(
    __name__,
    "DELETE",
    path="/sync-job/{job_id}",
    rpc="delete_sync_job",
    request=DeleteSyncJob,
    response=SyncJobDeleted,
    notifies_worker=True,
    error_format=TRUTO,
    errors=(JOB_NOT_FOUND,),
    example_request={"job_id": JOB_ID},
    example_response={"id": JOB_ID},
)
handler = endpoint.handler
