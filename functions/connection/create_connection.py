"""Creates a connection; its `configuration.secret` is for the worker alone and in no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from functions._shared import source_check
from functions._shared.endpoint import Endpoint
from functions._shared.error_format import POLYTOMIC
from functions._shared.fields import AcceptsOnly, PgJson, PgText, StrictRequest
from functions._shared.secret_store import store_externally
from functions.connection import INVALID_CONFIGURATION, OTHER_ORGANIZATION, SECRETS_UNAVAILABLE
from functions.connection.get_connection import EXAMPLE, OneConnection

if TYPE_CHECKING:
    from functions._shared.endpoint import Call


class CreateConnection(StrictRequest):
    """`validate`: only if the source answers, which is asked first."""

    name: Annotated[PgText, Field(min_length=1, max_length=200)]
    type: Literal["http", "records"]
    configuration: PgJson | None = None
    organization_id: UUID | None = None
    must_answer: bool | None = Field(None, alias="validate")
    healthcheck_interval: Annotated[str | None, AcceptsOnly("")] = None
    policies: Annotated[list[str] | None, AcceptsOnly([])] = None
    redirect_url: Annotated[str | None, AcceptsOnly("")] = None


def validated(arguments: dict[str, Any], call: Call) -> bytes:
    source_check.check_config(arguments["type"], arguments.get("configuration", {}))
    answer = call.own(store_externally(arguments, call))
    if arguments.pop("validate", False) and source_check.completed(answer, call):
        return call.own(store_externally(arguments, call))  # the secret anew: that of a test is forgotten with it
    return answer


endpoint = Endpoint(
    __name__,
    "POST",
    path="/api/connections",
    rpc="create_connection",
    request=CreateConnection,
    response=OneConnection,
    error_format=POLYTOMIC,
    steps=validated,
    errors=(INVALID_CONFIGURATION, OTHER_ORGANIZATION, SECRETS_UNAVAILABLE, *source_check.REFUSALS),
    example_request={
        "name": "Flights",
        "type": "http",
        "configuration": {**EXAMPLE["configuration"], "secret": {"token": "the-source-s-token"}},
    },
    example_response={"data": EXAMPLE},
)
handler = endpoint.handler
