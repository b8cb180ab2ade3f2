"""Returns a model sync."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import MODEL_SYNC_NOT_FOUND
from functions._shared.error_format import POLYTOMIC
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import ORGANIZATION_ID, RECORDS_ID, Actor
from functions.model import MODEL_ID
from functions.model_sync import SYNC_ID

EXAMPLE: dict[str, Any] = {
    "id": SYNC_ID,
    "name": "Airlines to CRM",
    "organization_id": ORGANIZATION_ID,
    "active": True,
    "mode": "updateOrCreate",
    "model_ids": [MODEL_ID],
    "fields": [{"source": {"model_id": MODEL_ID, "field": "name"}, "target": "title"}],
    "identity": {
        "source": {"model_id": MODEL_ID, "field": "carrier"},
        "target": "code",
        "function": "Equality",
    },
    "target": {"connection_id": RECORDS_ID, "object": "accounts", "configuration": {}},
    "target_connection_id": RECORDS_ID,
    "target_object": "accounts",
    "schedule": {"frequency": "manual"},
    "sync_all_records": True,
    "override_fields": [],
    "overrides": [],
    "filters": [],
    "filter_logic": "",
    "only_enrich_updates": False,
    "skip_initial_backfill": False,
    "policies": [],
    "problems": [],
    "created_at": "2026-11-22T13:47:26.287044+00:00",
    "created_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
    "updated_at": "2026-11-22T13:47:26.287044+00:00",
    "updated_by": {"id": "a3848396-23ea-4a28-a74c-541a63cd6a35", "type": "user", "name": "user:a3848396"},
}


class GetModelSync(BaseModel):
    sync_id: UUID


class MappedSource(BaseModel):
    model_id: UUID
    field: str


class FieldMapping(BaseModel):
    source: MappedSource
    target: str


class MatchedIdentity(BaseModel):
    source: MappedSource
    target: str
    function: Literal["Equality"]


class SyncTarget(BaseModel):
    connection_id: UUID
    object: str
    configuration: dict[str, Any]


class ModelSyncSchedule(BaseModel):
    frequency: Literal["manual"]


class ModelSync(BaseModel):
    """Has the fields of all published versions."""

    id: UUID
    name: str
    organization_id: UUID
    active: bool
    mode: Literal["create", "update", "updateOrCreate", "append"]
    model_ids: list[UUID]
    mappings: list[FieldMapping] = Field(alias="fields")
    identity: MatchedIdentity | None
    target: SyncTarget
    target_connection_id: UUID
    target_object: str
    schedule: ModelSyncSchedule
    sync_all_records: bool
    override_fields: list[FieldMapping]
    overrides: list[Any]
    filters: list[Any]
    filter_logic: str
    only_enrich_updates: bool
    skip_initial_backfill: bool
    policies: list[str]
    problems: list[Any]
    created_at: datetime
    created_by: Actor
    updated_at: datetime
    updated_by: Actor


class OneModelSync(BaseModel):
    data: ModelSync


endpoint = Endpoint(
    __name__,
    "GET",
    path="/api/syncs/{sync_id}",
    request=GetModelSync,
    response=OneModelSync,
    error_format=POLYTOMIC,
    errors=(MODEL_SYNC_NOT_FOUND,),
    example_request={"sync_id": SYNC_ID},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
