"""Defines a bulk sync of all or some schemas (a resource each) of a connection."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field

from functions._shared.dialect import POLYTOMIC
from functions._shared.endpoint import Endpoint
from functions._shared.errors import Refusal
from functions._shared.members import Contract, OneOf, Only, Text
from functions.bulk_sync import UNKNOWN_SCHEMA
from functions.bulk_sync.get_bulk_sync import EXAMPLE, OneBulkSync
from functions.connection import (
    CONNECTION_NOT_FOUND,
    NOT_A_SOURCE,
    OTHER_ORGANIZATION,
    RECORDS_ID,
    SOURCE_ID,
    Schedule,
)

NOT_A_DESTINATION = Refusal(400, "not_a_destination", "The destination is not a connection of type records.")
INVALID_OUTPUT_NAME = Refusal(
    400,
    "invalid_output_name",
    "The name of `schema` in the destination, with what goes before it, has 1 to 200 bytes.",
    {"schema": "flights"},
)
NO_SCHEMAS = Refusal(400, "no_schemas", "No schema is enabled.")


def _as_schema(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class SchemaChoice(Contract):
    """A resource of the source; its id alone is as good."""

    id: Text
    enabled: bool | None = None
    fields: Annotated[list[Any] | None, Only([])] = None
    filters: Annotated[list[Any] | None, Only([])] = None
    partition_key: Annotated[str | None, Only("")] = None
    tracking_field: Annotated[str | None, Only("")] = None
    user_output_name: Annotated[str | None, Only("")] = None
    history_enabled: Annotated[bool | None, Only(False)] = None
    disable_data_cutoff: Annotated[bool | None, Only(False)] = None
    data_cutoff_timestamp: Annotated[str | None, Only()] = None


Choice = Annotated[SchemaChoice, BeforeValidator(_as_schema, json_schema_input_type=SchemaChoice | str)]


class Destination(Contract):
    """`schema` goes before the names in the destination: crm.contacts."""

    namespace: Annotated[Text, Field(min_length=1, max_length=100)] | None = Field(None, alias="schema")


class CreateBulkSync(Contract):
    """`schedule` is how the API up to 2024-02-08 says `default_schedule`; executions are started by hand."""

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    source_connection_id: UUID
    destination_connection_id: UUID
    destination_configuration: Destination | None = None
    schemas: Annotated[list[Choice], Field(max_length=1000)] | None = None
    mode: Annotated[str | None, OneOf("replicate", "append")] = None
    active: bool | None = None
    organization_id: UUID | None = None
    default_schedule: Schedule | None = Field(None, exclude=True)
    schedule: Schedule | None = Field(None, exclude=True)
    additional_schedules: Annotated[list[Any] | None, Only([])] = None
    source_configuration: Annotated[dict[str, Any] | None, Only({})] = None
    automatically_add_new_fields: Annotated[str | None, Only("all")] = None
    automatically_add_new_objects: Annotated[str | None, Only("none")] = None
    discover: Annotated[bool | None, Only(False)] = None
    normalize_names: Annotated[str | None, Only("disabled")] = None
    disable_record_timestamps: Annotated[bool | None, Only(False)] = None
    policies: Annotated[list[str] | None, Only([])] = None
    concurrency_limit: Annotated[int | None, Only()] = None
    resync_concurrency_limit: Annotated[int | None, Only()] = None
    data_cutoff_timestamp: Annotated[str | None, Only()] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/bulk/syncs",
    rpc="create_bulk_sync",
    request=CreateBulkSync,
    response=OneBulkSync,
    dialect=POLYTOMIC,
    refusals=(
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
handler = endpoint.handler
