"""Asks a source whether it answers, with this configuration (over a stored one's); nothing is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared import source_check
from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.errors import ErrorSpec
from functions._shared.fields import PgJson, StrictRequest
from functions._shared.secret_store import store_externally
from functions.connection import CONNECTION_NOT_FOUND, INVALID_CONFIGURATION, SECRETS_UNAVAILABLE, SOURCE_ID

if TYPE_CHECKING:
    from functions._shared.endpoint import Call

OTHER_TYPE = ErrorSpec(400, "other_type", "The stored connection is of another type.")


class TestConnection(StrictRequest):
    """With `connection_id` a change of the stored one; another base_url or type of auth needs the secret anew.

    A secret takes the place of the stored one as a whole.
    """

    type: Literal["http", "records"]
    configuration: PgJson | None = None
    connection_id: UUID | None = None


class ConnectionTested(BaseModel):
    """`ok` is true: a source that does not answer, or refuses, is an error that says how."""

    ok: Literal[True]


def answered(arguments: dict[str, Any], call: Call) -> bytes:
    arguments.setdefault("configuration", {})
    if "connection_id" not in arguments:
        source_check.check_config(arguments["type"], arguments["configuration"])
    source_check.completed(call.own(store_externally(arguments, call)), call)
    return b'{"ok": true}'


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/connections/test",
    rpc="test_connection",
    request=TestConnection,
    response=ConnectionTested,
    error_format=POLYTOMIC,
    idempotent=False,
    steps=answered,
    errors=(INVALID_CONFIGURATION, CONNECTION_NOT_FOUND, OTHER_TYPE, SECRETS_UNAVAILABLE, *source_check.REFUSALS),
    example_request={
        "type": "http",
        "configuration": {"secret": {"token": "the-source-s-token"}},
        "connection_id": SOURCE_ID,
    },
    example_response={"ok": True},
)
handler = endpoint.handler
