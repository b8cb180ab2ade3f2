"""Creates a connection. No response shows its `configuration.secret`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from functions._connections.source_check import SOURCE_CHECK_ERRORS, await_source_check
from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import INVALID_CONFIGURATION, OTHER_ORGANIZATION, SECRETS_UNAVAILABLE
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, PgJson, PgText, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.connection._configuration import check_configuration, store_externally
from functions.connection.get_connection import EXAMPLE, OneConnection

if TYPE_CHECKING:
    from functions._shared.endpoint import RpcContext


class CreateConnection(StrictRequest):
    """`validate`: check first that the source can be read, and create the connection only then."""

    name: Annotated[PgText, Field(min_length=1, max_length=200)]
    type: Literal["http", "records"]
    configuration: PgJson | None = None
    organization_id: UUID | None = None
    check_source: bool | None = Field(None, alias="validate")
    healthcheck_interval: Annotated[str | None, AcceptsOnly("")] = None
    policies: Annotated[list[str] | None, AcceptsOnly([])] = None
    redirect_url: Annotated[str | None, AcceptsOnly("")] = None


def create(arguments: dict[str, Any], context: RpcContext) -> bytes:
    check_configuration(arguments["type"], arguments.get("configuration", {}))
    response = context.call_main(store_externally(arguments, context))
    if arguments.pop("validate", False) and await_source_check(response, context):
        # The secret is stored again, because that of the check is deleted with the check.
        return context.call_main(store_externally(arguments, context))
    return response


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/connections",
    request=CreateConnection,
    response=OneConnection,
    error_format=POLYTOMIC,
    respond=create,
    errors=(INVALID_CONFIGURATION, OTHER_ORGANIZATION, SECRETS_UNAVAILABLE, *SOURCE_CHECK_ERRORS),
    example_request={
        "name": "Flights",
        "type": "http",
        "configuration": {**EXAMPLE["configuration"], "secret": {"token": "the-source-s-token"}},
    },
    example_response={"data": EXAMPLE},
)
handler = lambda_handler(endpoint)
