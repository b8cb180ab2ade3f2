"""Returns a sync job."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import SYNC_JOB_NOT_FOUND
from functions._shared.error_format import TRUTO
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job import ENVIRONMENT_ID, JOB_ID

EXAMPLE: dict[str, Any] = {
    "id": JOB_ID,
    "label": "Contacts",
    "integration_name": "",
    "environment_id": ENVIRONMENT_ID,
    "args_schema": {"since": {"type": "string", "format": "date", "required": True}},
    "resources": [
        {"resource": "crm/accounts", "method": "list", "query": {"since": "{{args.since}}"}, "persist": False},
        {
            "resource": "crm/contacts",
            "method": "list",
            "query": {"account": "{{resources.crm.accounts.id}}"},
            "depends_on": "crm/accounts",
        },
    ],
    "default_runtime_version": 3,
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_at": "2026-11-22T13:47:26.287044+00:00",
}


class GetSyncJob(BaseModel):
    job_id: UUID


class SyncJob(BaseModel):
    """`args_schema` and `resources` are as they were sent."""

    id: UUID
    label: str
    integration_name: str
    environment_id: UUID
    args_schema: dict[str, Any]
    resources: list[dict[str, Any]]
    default_runtime_version: int
    created_at: datetime
    updated_at: datetime


endpoint = Endpoint(
    __name__,
    "GET",
    path="/sync-job/{job_id}",
    request=GetSyncJob,
    response=SyncJob,
    error_format=TRUTO,
    errors=(SYNC_JOB_NOT_FOUND,),
    example_request={"job_id": JOB_ID},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
