"""Creates a model sync, which maps fields of a model to an object of a connection of type records."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field

from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import (
    AMBIGUOUS_TARGET,
    CONNECTION_NOT_FOUND,
    IDENTITY_REQUIRED,
    MODEL_NOT_FOUND,
    NOT_A_DESTINATION,
    NOT_THE_IDENTITY,
    OTHER_ORGANIZATION,
    UNKNOWN_FIELD,
)
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest, SupportedValues
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import Schedule
from functions.model_sync.get_model_sync import EXAMPLE, OneModelSync

Name = Annotated[PgText, Field(min_length=1, max_length=200)]


def _at_most_200_bytes(name: str) -> str:
    if len(name.encode()) > 200:  # the limit of worker_commit_batch
        raise ValueError("must have at most 200 bytes")
    return name


class Source(StrictRequest):
    model_id: UUID
    field: Name


class Mapping(StrictRequest):
    source: Source
    target: Name
    new: Annotated[bool | None, AcceptsOnly(True, False)] = None  # rows accept any field
    override_value: Annotated[str | None, AcceptsOnly("")] = None
    sync_mode: Annotated[str | None, AcceptsOnly("")] = None
    encryption_enabled: Annotated[bool | None, AcceptsOnly(False)] = None


class Identity(StrictRequest):
    source: Source
    target: Name
    function: Annotated[str, SupportedValues("Equality")]
    new_field: Annotated[bool | None, AcceptsOnly(True, False)] = None
    remote_field_type_id: Annotated[str | None, AcceptsOnly("")] = None


class Target(StrictRequest):
    connection_id: UUID
    object: Annotated[Name, AfterValidator(_at_most_200_bytes)]
    configuration: Annotated[dict[str, Any] | None, AcceptsOnly({})] = None
    create: Annotated[dict[str, str] | None, AcceptsOnly({})] = None
    filter_logic: Annotated[str | None, AcceptsOnly("")] = None
    new_name: Annotated[str | None, AcceptsOnly("")] = None
    search_values: Annotated[dict[str, Any] | None, AcceptsOnly({})] = None


class CreateModelSync(StrictRequest):
    """With `sync_all_records` false, unchanged rows are neither written nor counted."""

    name: Annotated[PgText, Field(min_length=1, max_length=200)]
    mode: Annotated[str, SupportedValues("create", "update", "updateOrCreate", "append")]
    target: Target
    mappings: Annotated[list[Mapping], Field(min_length=1, max_length=1000, alias="fields")]
    identity: Identity | None = None
    schedule: Schedule | None = Field(None, exclude=True)
    active: bool | None = None
    sync_all_records: bool | None = None
    organization_id: UUID | None = None
    identities: Annotated[dict[str, Any] | None, AcceptsOnly({})] = None
    filters: Annotated[list[Any] | None, AcceptsOnly([])] = None
    filter_logic: Annotated[str | None, AcceptsOnly("")] = None
    model_filters: Annotated[dict[str, Any] | None, AcceptsOnly({})] = None
    target_filters: Annotated[dict[str, Any] | None, AcceptsOnly({})] = None
    override_fields: Annotated[list[Any] | None, AcceptsOnly([])] = None
    overrides: Annotated[list[Any] | None, AcceptsOnly([])] = None
    policies: Annotated[list[str] | None, AcceptsOnly([])] = None
    only_enrich_updates: Annotated[bool | None, AcceptsOnly(False)] = None
    skip_initial_backfill: Annotated[bool | None, AcceptsOnly(False)] = None
    encryption_passphrase: Annotated[str | None, AcceptsOnly("")] = None


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/syncs",
    request=CreateModelSync,
    response=OneModelSync,
    error_format=POLYTOMIC,
    errors=(
        IDENTITY_REQUIRED,
        AMBIGUOUS_TARGET,
        UNKNOWN_FIELD,
        NOT_A_DESTINATION,
        NOT_THE_IDENTITY,
        OTHER_ORGANIZATION,
        MODEL_NOT_FOUND,
        CONNECTION_NOT_FOUND,
    ),
    example_request={name: EXAMPLE[name] for name in ("name", "mode", "fields", "identity", "target", "schedule")},
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
