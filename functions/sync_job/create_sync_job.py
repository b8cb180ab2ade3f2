"""Creates a sync job: its resources, their dependencies and its arguments."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import OTHER_ORGANIZATION
from functions._shared.error_format import TRUTO
from functions._shared.fields import PgJson, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job import RESOURCE_ERRORS, Resources, Unsupported, Version
from functions.sync_job.get_sync_job import EXAMPLE, SyncJob


class CreateSyncJob(StrictRequest):
    """`args_schema`: {name: {type, format, required, description}}, or the same as `properties` of a JSON Schema."""

    resources: Resources
    label: Annotated[PgText, Field(min_length=1, max_length=200)] | None = None
    integration_name: Annotated[PgText, Field(max_length=200)] | None = None
    args_schema: PgJson | None = None
    default_runtime_version: Version | None = None
    environment_id: UUID | None = None
    args_validation: Unsupported = None
    mutex_key: Unsupported = None
    state_key: Unsupported = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/sync-job",
    request=CreateSyncJob,
    response=SyncJob,
    error_format=TRUTO,
    errors=(*RESOURCE_ERRORS, OTHER_ORGANIZATION),
    example_request={name: EXAMPLE[name] for name in ("label", "resources", "args_schema")},
    example_response=EXAMPLE,
)
handler = lambda_handler(endpoint)
