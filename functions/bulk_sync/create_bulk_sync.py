"""Creates a bulk sync of all or some schemas (resources) of a connection."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import (
    CONNECTION_NOT_FOUND,
    INVALID_OUTPUT_NAME,
    NO_SCHEMAS,
    NOT_A_DESTINATION,
    NOT_A_SOURCE,
    OTHER_ORGANIZATION,
    UNKNOWN_SCHEMA,
)
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest, SupportedValues
from functions._shared.lambda_adapter import lambda_handler
from functions.bulk_sync.get_bulk_sync import EXAMPLE, OneBulkSync
from functions.connection import RECORDS_ID, SOURCE_ID, Schedule


def _as_schema(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class SchemaChoice(StrictRequest):
    """A resource of the source. Its id as a string means the same."""

    id: PgText
    enabled: bool | None = None
    fields: Annotated[list[Any] | None, AcceptsOnly([])] = None
    filters: Annotated[list[Any] | None, AcceptsOnly([])] = None
    partition_key: Annotated[str | None, AcceptsOnly("")] = None
    tracking_field: Annotated[str | None, AcceptsOnly("")] = None
    user_output_name: Annotated[str | None, AcceptsOnly("")] = None
    history_enabled: Annotated[bool | None, AcceptsOnly(False)] = None
    disable_data_cutoff: Annotated[bool | None, AcceptsOnly(False)] = None
    data_cutoff_timestamp: Annotated[str | None, AcceptsOnly()] = None


Choice = Annotated[SchemaChoice, BeforeValidator(_as_schema, json_schema_input_type=SchemaChoice | str)]


class Destination(StrictRequest):
    """`schema` is a prefix of the names in the destination, for example crm in crm.contacts."""

    namespace: Annotated[PgText, Field(min_length=1, max_length=100)] | None = Field(None, alias="schema")


class CreateBulkSync(StrictRequest):
    """`schedule` is the name of `default_schedule` up to version 2024-02-08. Executions are started manually."""

    name: Annotated[PgText, Field(min_length=1, max_length=200)]
    source_connection_id: UUID
    destination_connection_id: UUID
    destination_configuration: Destination | None = None
    schemas: Annotated[list[Choice], Field(max_length=1000)] | None = None
    mode: Annotated[str | None, SupportedValues("replicate", "append")] = None
    active: bool | None = None
    organization_id: UUID | None = None
    default_schedule: Schedule | None = Field(None, exclude=True)
    schedule: Schedule | None = Field(None, exclude=True)
    additional_schedules: Annotated[list[Any] | None, AcceptsOnly([])] = None
    source_configuration: Annotated[dict[str, Any] | None, AcceptsOnly({})] = None
    automatically_add_new_fields: Annotated[str | None, AcceptsOnly("all")] = None
    automatically_add_new_objects: Annotated[str | None, AcceptsOnly("none")] = None
    discover: Annotated[bool | None, AcceptsOnly(False)] = None
    normalize_names: Annotated[str | None, AcceptsOnly("disabled")] = None
    disable_record_timestamps: Annotated[bool | None, AcceptsOnly(False)] = None
    policies: Annotated[list[str] | None, AcceptsOnly([])] = None
    concurrency_limit: Annotated[int | None, AcceptsOnly()] = None
    resync_concurrency_limit: Annotated[int | None, AcceptsOnly()] = None
    data_cutoff_timestamp: Annotated[str | None, AcceptsOnly()] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/bulk/syncs",
    request=CreateBulkSync,
    response=OneBulkSync,
    error_format=POLYTOMIC,
    errors=(
        CONNECTION_NOT_FOUND,
        NOT_A_SOURCE,
        NOT_A_DESTINATION,
        UNKNOWN_SCHEMA,
        INVALID_OUTPUT_NAME,
        NO_SCHEMAS,
        OTHER_ORGANIZATION,
    ),
    example_request={
        "name": "Flights",
        "source_connection_id": SOURCE_ID,
        "destination_connection_id": RECORDS_ID,
        "destination_configuration": {},
        "default_schedule": {"frequency": "manual"},
        "schemas": ["flights"],
    },
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
