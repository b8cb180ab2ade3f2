"""Defines a sync job: which resources are read, on which they depend, with which arguments."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import OTHER_ORGANIZATION
from functions._shared.error_format import TRUTO
from functions._shared.fields import PgJson, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.sync_job import RESOURCE_ERRORS, Nothing, Resources, Version
from functions.sync_job.get_sync_job import EXAMPLE, SyncJob


class CreateSyncJob(StrictRequest):
    """`args_schema`: {name: {type, format, required, description}}, or {type: object, properties: the same}."""

    resources: Resources
    label: Annotated[PgText, Field(min_length=1, max_length=200)] | None = None
    integration_name: Annotated[PgText, Field(max_length=200)] | None = None
    args_schema: PgJson | None = None
    default_runtime_version: Version | None = None
    environment_id: UUID | None = None
    args_validation: Nothing = None
    mutex_key: Nothing = None
    state_key: Nothing = None


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
