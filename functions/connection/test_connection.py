"""Checks whether a source can be read with a configuration. Stores nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._connections.source_check import SOURCE_CHECK_ERRORS, await_source_check
from functions._shared.endpoint import Endpoint
from functions._shared.error_catalog import CONNECTION_NOT_FOUND, INVALID_CONFIGURATION, OTHER_TYPE, SECRETS_UNAVAILABLE
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import PgJson, StrictRequest
from functions._shared.lambda_adapter import lambda_handler
from functions.connection import SOURCE_ID
from functions.connection._configuration import check_configuration, store_externally

if TYPE_CHECKING:
    from functions._shared.endpoint import RpcContext


class TestConnection(StrictRequest):
    """With `connection_id`, `configuration` overrides that of the stored connection.

    A secret replaces the stored secret as a whole. It is required if base_url or the type of auth changes.
    """

    type: Literal["http", "records"]
    configuration: PgJson | None = None
    connection_id: UUID | None = None


class ConnectionTested(BaseModel):
    """`ok` is always true. A source that cannot be read is an error."""

    ok: Literal[True]


def test(arguments: dict[str, Any], context: RpcContext) -> bytes:
    arguments.setdefault("configuration", {})
    if "connection_id" not in arguments:
        check_configuration(arguments["type"], arguments["configuration"])
    await_source_check(context.call_main(store_externally(arguments, context)), context)
    return b'{"ok": true}'


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/connections/test",
    request=TestConnection,
    response=ConnectionTested,
    error_format=POLYTOMIC,
    idempotent=False,
    respond=test,
    errors=(INVALID_CONFIGURATION, CONNECTION_NOT_FOUND, OTHER_TYPE, SECRETS_UNAVAILABLE, *SOURCE_CHECK_ERRORS),
    example_request={
        "type": "http",
        "configuration": {"secret": {"token": "the-source-s-token"}},
        "connection_id": SOURCE_ID,
    },
    example_response={"ok": True},
)
handler = lambda_handler(endpoint)
