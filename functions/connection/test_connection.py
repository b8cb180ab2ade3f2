"""Asks a source whether it answers, with this configuration (over a stored one's); nothing is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import BaseModel

from functions._shared import look
from functions._shared.dialect import POLYTOMIC
from functions._shared.endpoint import Endpoint
from functions._shared.errors import Refusal
from functions._shared.members import Contract, JsonObject
from functions._shared.secret_store import put_outside
from functions.connection import CONNECTION_NOT_FOUND, INVALID_CONFIGURATION, SECRETS_UNAVAILABLE, SOURCE_ID

if TYPE_CHECKING:
    from functions._shared.endpoint import Call

OTHER_TYPE = Refusal(400, "other_type", "The stored connection is of another type.")


class TestConnection(Contract):
    """With `connection_id` a change of the stored one; another base_url or type of auth needs the secret anew.

    A secret takes the place of the stored one as a whole.
    """

    type: Literal["http", "records"]
    configuration: JsonObject | None = None
    connection_id: UUID | None = None


class ConnectionTested(BaseModel):
    """`ok` is true: a source that does not answer, or refuses, is an error that says how."""

    ok: Literal[True]


def answered(arguments: dict[str, Any], call: Call) -> bytes:
    arguments.setdefault("configuration", {})
    if "connection_id" not in arguments:
        look.check_config(arguments["type"], arguments["configuration"])
    look.completed(call.own(put_outside(arguments, call)), call)
    return b'{"ok": true}'


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/connections/test",
    rpc="test_connection",
    request=TestConnection,
    response=ConnectionTested,
    dialect=POLYTOMIC,
    remembered=False,
    steps=answered,
    refusals=(INVALID_CONFIGURATION, CONNECTION_NOT_FOUND, OTHER_TYPE, SECRETS_UNAVAILABLE, *look.REFUSALS),
    example_request={
        "type": "http",
        "configuration": {"secret": {"token": "the-source-s-token"}},
        "connection_id": SOURCE_ID,
    },
    example_response={"ok": True},
)
handler = endpoint.handler
