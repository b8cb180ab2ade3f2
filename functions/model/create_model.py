"""Creates a model over a resource of a connection. Its fields are those of the first page of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from pydantic import Field

from functions._connections.source_check import SOURCE_CHECK_ERRORS, await_source_check
from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import (
    CONNECTION_NOT_FOUND,
    NOT_A_SOURCE,
    OTHER_ORGANIZATION,
    UNKNOWN_FIELD,
    UNKNOWN_RESOURCE,
)
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import SOURCE_ID
from functions.model.get_model import EXAMPLE, OneModel

if TYPE_CHECKING:
    from functions._shared.endpoint import RpcContext


class Query(StrictRequest):
    resource: PgText


class CreateModel(StrictRequest):
    """`fields` are names, by default of all fields on the first page."""

    name: Annotated[PgText, Field(min_length=1, max_length=200)]
    connection_id: UUID
    configuration: Query
    # `fields` is an attribute of pydantic models.
    chosen: Annotated[list[PgText], Field(min_length=1, max_length=1000)] | None = Field(None, alias="fields")
    identifier: PgText | None = None
    organization_id: UUID | None = None
    additional_fields: Annotated[list[Any] | None, AcceptsOnly([])] = None
    enricher: Annotated[dict[str, Any] | None, AcceptsOnly()] = None
    labels: Annotated[list[str] | None, AcceptsOnly([])] = None
    policies: Annotated[list[str] | None, AcceptsOnly([])] = None
    relations: Annotated[list[Any] | None, AcceptsOnly([])] = None
    tracking_columns: Annotated[list[str] | None, AcceptsOnly([])] = None


def create(arguments: dict[str, Any], context: RpcContext) -> bytes:
    response = context.call_main(arguments)
    check_id = await_source_check(response, context)
    return context.call_main({**arguments, "check_id": check_id}) if check_id else response


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/models",
    request=CreateModel,
    response=OneModel,
    error_format=POLYTOMIC,
    respond=create,
    errors=(
        CONNECTION_NOT_FOUND,
        NOT_A_SOURCE,
        UNKNOWN_RESOURCE,
        UNKNOWN_FIELD,
        OTHER_ORGANIZATION,
        *SOURCE_CHECK_ERRORS,
    ),
    example_request={
        "name": "Airlines",
        "connection_id": SOURCE_ID,
        "configuration": {"resource": "airlines"},
        "identifier": "carrier",
    },
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
