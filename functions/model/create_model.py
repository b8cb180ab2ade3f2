"""Defines a model over a resource of a connection; its fields are those of the first page of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from pydantic import Field

from functions._shared import source_check
from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.errors import ErrorSpec
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest
from functions.connection import CONNECTION_NOT_FOUND, NOT_A_SOURCE, OTHER_ORGANIZATION, SOURCE_ID
from functions.model import UNKNOWN_FIELD
from functions.model.get_model import EXAMPLE, OneModel

if TYPE_CHECKING:
    from functions._shared.endpoint import Call

UNKNOWN_RESOURCE = ErrorSpec(
    400,
    "unknown_resource",
    "The connection does not have `resource`; it has those in `available`.",
    {"resource": "flight", "available": ["flights", "weather"]},
)


class Query(StrictRequest):
    resource: PgText


class CreateModel(StrictRequest):
    """`fields`: names; without, all that the first page shows."""

    name: Annotated[PgText, Field(min_length=1, max_length=200)]
    connection_id: UUID
    configuration: Query
    # `fields` is a name of pydantic's own.
    chosen: Annotated[list[PgText], Field(min_length=1, max_length=1000)] | None = Field(None, alias="fields")
    identifier: PgText | None = None
    organization_id: UUID | None = None
    additional_fields: Annotated[list[Any] | None, AcceptsOnly([])] = None
    enricher: Annotated[dict[str, Any] | None, AcceptsOnly()] = None
    labels: Annotated[list[str] | None, AcceptsOnly([])] = None
    policies: Annotated[list[str] | None, AcceptsOnly([])] = None
    relations: Annotated[list[Any] | None, AcceptsOnly([])] = None
    tracking_columns: Annotated[list[str] | None, AcceptsOnly([])] = None


def looked_at(arguments: dict[str, Any], call: Call) -> bytes:
    answer = call.own(arguments)
    check_id = source_check.completed(answer, call)
    return call.own({**arguments, "check_id": check_id}) if check_id else answer


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/models",
    rpc="create_model",
    request=CreateModel,
    response=OneModel,
    error_format=POLYTOMIC,
    steps=looked_at,
    errors=(
        CONNECTION_NOT_FOUND,
        NOT_A_SOURCE,
        UNKNOWN_RESOURCE,
        UNKNOWN_FIELD,
        OTHER_ORGANIZATION,
        *source_check.REFUSALS,
    ),
    example_request={
        "name": "Airlines",
        "connection_id": SOURCE_ID,
        "configuration": {"resource": "airlines"},
        "identifier": "carrier",
    },
    example_response={"data": EXAMPLE},
)
handler = endpoint.handler
