"""Returns a bulk sync."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import BULK_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync import SYNC_ID
from functions.connection import ORGANIZATION_ID, RECORDS_ID, SOURCE_ID, Actor

EXAMPLE: dict[str, Any] = {
    "id": SYNC_ID,
    "name": "Flights",
    "organization_id": ORGANIZATION_ID,
    "active": True,
    "mode": "replicate",
    "source_connection_id": SOURCE_ID,
    "source_configuration": {},
    "destination_connection_id": RECORDS_ID,
    "destination_configuration": {},
    "schemas": [{"id": "flights", "output_name": "flights"}],
    "schedule": {"frequency": "manual"},
    "default_schedule": {"frequency": "manual", "id": SYNC_ID},
    "additional_schedules": [],
    "policies": [],
    "discover": False,
    "automatically_add_new_fields": "all",
    "automatically_add_new_objects": "none",
    "normalize_names": "disabled",
    "disable_record_timestamps": False,
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "created_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
    "updated_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
}


class GetBulkSync(BaseModel):
    """`refresh_schemas` is accepted and changes nothing, because schemas are always current."""

    sync_id: UUID


class BulkSyncSchedule(BaseModel):
    frequency: Literal["manual"]
    id: UUID | None = None


class SyncedSchema(BaseModel):
    """A resource of the source, and its name in the destination."""

    id: str
    output_name: str


class BulkSync(BaseModel):
    """Has the fields of all published versions: old clients read `schedule`, new ones `default_schedule`."""

    id: UUID
    name: str
    organization_id: UUID
    active: bool
    mode: Literal["replicate", "append"]
    source_connection_id: UUID
    source_configuration: dict[str, Any]
    destination_connection_id: UUID
    destination_configuration: dict[str, Any]
    schemas: list[SyncedSchema]
    schedule: BulkSyncSchedule
    default_schedule: BulkSyncSchedule
    additional_schedules: list[BulkSyncSchedule]
    policies: list[str]
    discover: bool
    automatically_add_new_fields: str
    automatically_add_new_objects: str
    normalize_names: str
    disable_record_timestamps: bool
    created_at: datetime
    created_by: Actor
    updated_at: datetime
    updated_by: Actor


class OneBulkSync(BaseModel):
    data: BulkSync


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/bulk/syncs/{sync_id}",
    request=GetBulkSync,
    response=OneBulkSync,
    error_format=POLYTOMIC,
    errors=(BULK_SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
